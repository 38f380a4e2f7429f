"""Prompts: the context first, the instruction last, so that all tasks of one user share their prefix.

    trunk  = frame opener + context JSON                       (computed once per user, shared by every task)
    suffix = instruction + assistant opener + task opener      (think: ``<think>``)
    answer = think: thought ``</think>`` SID end · direct: SID end · name: JSON record of the item, end

The tasks have different instructions: were they equal, training one mode would destroy the other.

Source: CRS §3.1.2 and §3.2 name the tasks; the paper prints no prompts (details: this project).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from crsearch.context.serialiser import Encoded, Past, Serialiser
from crsearch.context.wording import INSTRUCTIONS, SYSTEM, Language
from crsearch.errors import ModelError
from crsearch.records.types import Context, Item

Task = Literal["think", "direct", "name"]

THINK, CLOSE = "<think>", "</think>"
PAD, END, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"
CONTROL = (PAD, END, USER, ASSISTANT, THINK, CLOSE)
"""Control tokens of models without a chat template; the semantic IDs come after them."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The fixed text around a prompt.

    Attributes:
        opener: before the data.
        closer: after the instruction; the answer follows.
        direct: after ``closer`` when no thought is wanted (Qwen3: an empty think block).
    """

    opener: str
    closer: str
    direct: str = ""


PLAIN = Frame(opener=USER, closer=ASSISTANT)
"""For models without a chat template: ``<|user|>{data}{instruction}<|assistant|>``."""


def plain_frame(tokenizer: Any) -> Frame:
    """``PLAIN``, after the start token where the tokenizer puts one before every text (Llama)."""
    start = tokenizer.bos_token_id
    begins = start is not None and tokenizer("").input_ids[:1] == [start]
    return Frame(tokenizer.bos_token + PLAIN.opener, PLAIN.closer) if begins else PLAIN


def chat_frame(tokenizer: Any, language: Language = "en") -> Frame:
    """The frame that a chat model's own template gives.

    The template is rendered once around a marker, with and without thinking. What the template opens for thinking
    is cut off, because the task decides whether ``<think>`` follows.

    Raises:
        ModelError: the template changes or repeats the user's text.
    """
    opener, thinking = _rendered(tokenizer, language, thinking=True)
    _, silent = _rendered(tokenizer, language, thinking=False)
    closer = thinking.split(THINK)[0]
    block = silent.removeprefix(closer)
    return Frame(opener, closer, direct=block if CLOSE in block else "")


def _rendered(tokenizer: Any, language: Language, thinking: bool) -> tuple[str, str]:
    """What the chat template writes before and after the user's text."""
    from jinja2 import TemplateError

    mark, system = "CRSEARCH-DATA", SYSTEM[language]

    def render(*messages: tuple[str, str]) -> str:
        text: str = tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in messages],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=thinking,
            date_string="",  # else Llama's template prints the day of the call
        )
        return text

    try:
        text = render(("system", system), ("user", mark))
    except TemplateError:  # Gemma has no system role: there the line opens the user's turn
        text = render(("user", f"{system}\n{mark}"))
    before, *after = text.split(mark)
    if len(after) != 1:
        raise ModelError("the chat template does not write the user's text once and unchanged: use another template")
    return before, after[0]


class Prompts:
    """Token ids of every prompt and answer, for training and serving alike.

    Args:
        serialiser: with a tokenizer that holds ``<think>``, ``</think>`` and the semantic IDs.
        tokenizer: the same tokenizer.
        frame: none = of the tokenizer's chat template where it has one, else ``plain_frame``.
        language: of the instructions.

    Raises:
        ModelError: the tokenizer lacks a control token.
    """

    def __init__(
        self, serialiser: Serialiser, tokenizer: Any, frame: Frame | None = None, language: Language = "en"
    ) -> None:
        self.serialiser, self.tokenizer = serialiser, tokenizer
        self.frame = frame or (chat_frame(tokenizer, language) if tokenizer.chat_template else plain_frame(tokenizer))
        self.think_id, self.close_id = token_id(tokenizer, THINK), token_id(tokenizer, CLOSE)
        if tokenizer.eos_token_id is None:
            raise ModelError(f"the tokenizer has no end token: set its eos_token, e.g. to {END}")
        self.end_id: int = tokenizer.eos_token_id
        self._opener = self.serialiser.ids(self.frame.opener)
        self._instructions = {
            name: self.serialiser.ids(text + self.frame.closer) for name, text in INSTRUCTIONS[language].items()
        }
        self._direct = self.serialiser.ids(self.frame.direct)

    # -- context tasks ------------------------------------------------------------------------------------------------
    def trunk(self, context: Context) -> Encoded:
        """Frame opener and context (the token budget is the context's alone): what all tasks of this context share."""
        return self.trunks([context])[0]

    def trunks(self, contexts: Sequence[Context]) -> list[Encoded]:
        """Trunks of many contexts, tokenised together."""
        return [e.shifted(self.frame.opener, self._opener) for e in self.serialiser.contexts(contexts)]

    def past(self, context: Context) -> Past:
        """Profile and history of a context, for ``trunk_after``."""
        return Past(self.serialiser, context)

    def trunk_after(self, past: Past, context: Context) -> tuple[list[int], dict[str, int]]:
        """``ids`` and ``dropped`` of ``trunk``, for a context of this profile and history."""
        ids, dropped = past.then(context)
        return self._opener + ids, dropped

    def suffix(self, task: Task) -> list[int]:
        """Instruction, assistant opener and what opens the answer of ``task``."""
        opener = {"think": [self.think_id], "direct": self._direct, "name": self._direct}
        return self._instructions[task] + opener[task]

    def answer(self, task: Task, row: int, thought: str = "") -> list[int]:
        """The answer that training teaches, with the end token.

        Args:
            task: which answer.
            row: catalogue row of the item.
            thought: for ``think`` only.
        """
        if task == "think":
            return [*self.thought(thought), self.close_id, *self.sid(row), self.end_id]
        return [*self.sid(row), self.end_id] if task == "direct" else self._record(row)

    def thought(self, text: str) -> list[int]:
        """Tokens of a thought, guarded: it can neither close itself nor name an item by its semantic ID."""
        return self.serialiser.ids(self.serialiser.guard(text))

    def sid(self, row: int) -> list[int]:
        """Tokens of an item's semantic ID."""
        return [token_id(self.tokenizer, piece) for piece in self.serialiser.sids.pieces(row)]

    # -- item tasks ---------------------------------------------------------------------------------------------------
    def item_to_sid(self, item: Item, without: Sequence[str] = ()) -> tuple[list[int], list[int]]:
        """(prompt, answer): name an item from its record.

        Args:
            item: an item of the catalogue.
            without: fields masked in the record.
        """
        prompt = self._opener + self.serialiser.item(item, without).ids + self._instructions["item_to_sid"]
        return prompt + self._direct, self.answer("direct", self.serialiser.catalogue.row(item.item_id))

    def sid_to_item(self, row: int) -> tuple[list[int], list[int]]:
        """(prompt, answer): write an item's record from its semantic ID."""
        prompt = self._opener + self.sid(row) + self._instructions["sid_to_item"]
        return prompt + self._direct, self._record(row)

    def _record(self, row: int) -> list[int]:
        return [*self.serialiser.item(self.serialiser.catalogue[row]).ids, self.end_id]


def token_id(tokenizer: Any, token: str) -> int:
    """Id of a token that must be in the vocabulary as one token.

    Raises:
        ModelError: it is not.
    """
    found = tokenizer.convert_tokens_to_ids(token)
    if found is None or (found == tokenizer.unk_token_id and token != tokenizer.unk_token):
        raise ModelError(f"the tokenizer lacks the token {token}: extend it with crsearch.models.extend_vocabulary")
    return int(found)
