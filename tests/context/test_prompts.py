from typing import Any

import pytest
from hf_like import llama_tokenizer, qwen_tokenizer
from shop import contexts

from crsearch.config import ContextConfig
from crsearch.context import PLAIN, Frame, Prompts, Serialiser, chat_frame
from crsearch.context.wording import INSTRUCTIONS, SYSTEM
from crsearch.errors import ModelError
from crsearch.records.store import Catalogue
from crsearch.sids.book import SidBook

TASKS = ("think", "direct", "name")
CONFIG = ContextConfig(time="month", token_budget=10_000)


@pytest.fixture
def prompts(catalogue: Catalogue, sids: SidBook, tokenizer: Any) -> Prompts:
    return Prompts(Serialiser(catalogue, sids, CONFIG, tokenizer), tokenizer)


@pytest.fixture
def chat(catalogue: Catalogue, sids: SidBook, qwen: Any) -> Prompts:
    return Prompts(Serialiser(catalogue, sids, CONFIG, qwen), qwen)


def test_plain_frame_puts_context_first_and_instruction_last(
    prompts: Prompts, catalogue: Catalogue, tokenizer: Any
) -> None:
    context = contexts(catalogue, 1)[0]
    trunk, json_text = prompts.trunk(context), prompts.serialiser.context(context).text
    assert trunk.text == f"<|user|>{json_text}"
    for task, ending in (("think", "<think>"), ("direct", ""), ("name", "")):
        whole = f"{trunk.text}{INSTRUCTIONS['en'][task]}<|assistant|>{ending}"
        assert tokenizer.decode(trunk.ids + prompts.suffix(task)) == whole
        assert trunk.ids + prompts.suffix(task) == tokenizer(whole, add_special_tokens=False).input_ids


def test_spans_of_the_trunk_move_with_the_opener(prompts: Prompts, chat: Prompts, catalogue: Catalogue) -> None:
    context = contexts(catalogue, 1)[0]
    for p in (prompts, chat):
        alone, trunk = p.serialiser.context(context), p.trunk(context)
        for (a, b), (c, d) in zip(alone.clicked, trunk.clicked, strict=True):
            assert alone.ids[a:b] == trunk.ids[c:d]
        for (a, row), (b, same) in zip(alone.branches, trunk.branches, strict=True):
            assert trunk.ids[:b][-a:] == alone.ids[:a] and row == same
    assert prompts.trunks([context, context]) == [prompts.trunk(context)] * 2


@pytest.mark.parametrize("language", ["en", "zh"])
def test_chat_prompts_are_exactly_what_the_template_renders(
    language: Any, catalogue: Catalogue, sids: SidBook, qwen: Any
) -> None:
    """Qwen3: without thinking the template itself writes an empty think block; with it, the model opens one."""
    chat = Prompts(Serialiser(catalogue, sids, CONFIG, qwen), qwen, language=language)
    context = contexts(catalogue, 1)[0]
    text = chat.serialiser.context(context).text
    for task, thinking, ending in (("think", True, "<think>"), ("direct", False, ""), ("name", False, "")):
        content = text + INSTRUCTIONS[language][task]
        messages = [{"role": "system", "content": SYSTEM[language]}, {"role": "user", "content": content}]
        whole = qwen.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking)
        ids = qwen(whole + ending, add_special_tokens=False).input_ids
        assert chat.trunk(context).ids + chat.suffix(task) == ids


def test_golden_qwen3_answer_prefixes(chat: Prompts, qwen: Any) -> None:
    start, end, think, close = qwen.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "<think>", "</think>"])
    newline, blank = (qwen(text, add_special_tokens=False).input_ids for text in ("\n", "\n\n"))
    assistant = qwen("assistant", add_special_tokens=False).input_ids
    opener = [end, *newline, start, *assistant, *newline]
    instruction = qwen(INSTRUCTIONS["en"]["direct"], add_special_tokens=False).input_ids
    assert chat.suffix("direct") == [*instruction, *opener, think, *blank, close, *blank]
    instruction = qwen(INSTRUCTIONS["en"]["think"], add_special_tokens=False).input_ids
    assert chat.suffix("think") == [*instruction, *opener, think]


@pytest.mark.parametrize("ending", ["<think>\n", ""])
def test_templates_that_cannot_switch_thinking_off_answer_at_once(ending: str) -> None:
    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = "U:{{ messages[1].content }}A:" + ending
    assert chat_frame(tokenizer) == Frame(opener="U:", closer="A:", direct="")


def test_templates_without_a_system_role_get_the_line_in_the_users_turn() -> None:
    tokenizer = qwen_tokenizer()
    refuse = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    tokenizer.chat_template = refuse + "U:{{ messages[0].content }}A:"
    assert chat_frame(tokenizer) == Frame(opener=f"U:{SYSTEM['en']}\n", closer="A:")


def test_a_template_that_drops_the_users_text_is_refused() -> None:
    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}"
    with pytest.raises(ModelError, match="chat template"):
        chat_frame(tokenizer)


def test_models_without_template_use_the_plain_frame(catalogue: Catalogue, sids: SidBook, llama: Any) -> None:
    prompts = Prompts(Serialiser(catalogue, sids, CONFIG, llama), llama)
    assert prompts.frame == Frame("<|begin_of_text|><|user|>", PLAIN.closer)
    context = contexts(catalogue, 1)[0]
    assert llama.decode(prompts.trunk(context).ids + prompts.suffix("direct")).endswith(
        f"{INSTRUCTIONS['en']['direct']}<|assistant|>"
    )
    ids = prompts.trunk(context).ids + prompts.suffix("direct")
    assert ids[0] == llama.bos_token_id and ids.count(llama.bos_token_id) == 1


def test_answers(prompts: Prompts, catalogue: Catalogue, tokenizer: Any) -> None:
    sid = prompts.serialiser.sids.sid(7)
    assert tokenizer.decode(prompts.answer("think", 7, "warm coat")) == f"warm coat</think>{sid}<|end|>"
    assert tokenizer.decode(prompts.answer("direct", 7)) == f"{sid}<|end|>"
    record = prompts.serialiser.item(catalogue[7]).text
    assert tokenizer.decode(prompts.answer("name", 7)) == f"{record}<|end|>"
    assert len(prompts.answer("direct", 7)) == 5


def test_item_tasks(prompts: Prompts, catalogue: Catalogue, tokenizer: Any) -> None:
    sid, record = prompts.serialiser.sids.sid(7), prompts.serialiser.item(catalogue[7]).text
    prompt, answer = prompts.item_to_sid(catalogue[7])
    assert tokenizer.decode(prompt) == f"<|user|>{record} Name this item.<|assistant|>"
    assert tokenizer.decode(answer) == f"{sid}<|end|>"
    masked, same = prompts.item_to_sid(catalogue[7], without=["title"])
    assert same == answer and catalogue[7].title not in tokenizer.decode(masked)
    prompt, answer = prompts.sid_to_item(7)
    assert tokenizer.decode(prompt) == f"<|user|>{sid} Describe this item.<|assistant|>"
    assert tokenizer.decode(answer) == f"{record}<|end|>"


@pytest.mark.parametrize("kind", ["prompts", "chat"])
def test_a_thought_can_neither_close_itself_nor_name_an_item(kind: str, request: Any) -> None:
    p = request.getfixturevalue(kind)
    control = set(p.tokenizer.get_added_vocab().values())
    assert not control & set(p.thought("done</think><a_1><b_0><c_0><d_0><|end|><|im_end|>"))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_task_asks_something_else(language: Any, catalogue: Catalogue, sids: SidBook, tokenizer: Any) -> None:
    p = Prompts(Serialiser(catalogue, sids, CONFIG, tokenizer), tokenizer, language=language)
    suffixes = [tuple(p.suffix(task)) for task in TASKS]
    assert len(set(suffixes)) == 3
    for one in suffixes:
        for other in suffixes:
            assert one == other or one[: len(other)] != other, "one instruction is the start of another"


def test_instructions_cost_few_tokens(prompts: Prompts) -> None:
    assert max(len(prompts.suffix(task)) for task in TASKS) <= 13


def test_missing_control_tokens_are_named(catalogue: Catalogue, sids: SidBook) -> None:
    bare = llama_tokenizer()
    bare.add_tokens(sids.vocabulary(), special_tokens=True)
    with pytest.raises(ModelError, match="lacks the token <think>"):
        Prompts(Serialiser(catalogue, sids, CONFIG, bare), bare)
    endless = qwen_tokenizer()
    endless.eos_token = None
    with pytest.raises(ModelError, match="no end token"):
        Prompts(Serialiser(catalogue, sids, CONFIG, endless), endless)
