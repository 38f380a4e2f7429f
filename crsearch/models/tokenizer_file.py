"""The tokenizer of a saved bundle without transformers: for processes that read contexts and have no model.

What transformers adds to ``tokenizer.json`` is names for special tokens and, in some classes, changes of its rules. The
bundle says by a digest which rules its model was trained with: where ``tokenizer.json`` alone has these, it gives the
same ids, and transformers (which takes half a second and 20 MB) is not needed. Where it has not, or the model has a
chat template, which transformers renders, the tokenizer is loaded the usual way.

Source: details: this project.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from crsearch.errors import ModelError
from crsearch.models.files import read_identity, tokenizer_digest

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LISTED = ("extra_special_tokens", "additional_special_tokens")


@dataclass(frozen=True, slots=True)
class Ids:
    """Token ids of a text, or of several."""

    input_ids: list[Any]


class FileTokenizer:
    """``tokenizer.json`` with that part of transformers' interface that prompts, guard and answers use.

    Args:
        core: the tokenizer.
        config: of ``tokenizer_config.json``.
    """

    is_fast = True
    chat_template = None

    def __init__(self, core: Tokenizer, config: Mapping[str, Any]) -> None:
        self.backend_tokenizer = core
        named = {name: _content(config.get(name)) for name in _NAMED}
        self.bos_token, self.eos_token, self.unk_token = named["bos_token"], named["eos_token"], named["unk_token"]
        self.pad_token = named["pad_token"]
        listed = [_content(token) for key in _LISTED for token in _values(config.get(key))]
        self.all_special_tokens = list(dict.fromkeys(t for t in (*named.values(), *listed) if t))

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def bos_token_id(self) -> int | None:
        """Start of a text; none = there is none."""
        return self._id(self.bos_token)

    @property
    def eos_token_id(self) -> int | None:
        """End of a text."""
        return self._id(self.eos_token)

    @property
    def pad_token_id(self) -> int | None:
        """Fills batches."""
        return self._id(self.pad_token)

    @property
    def unk_token_id(self) -> int | None:
        """Stands for what has no token."""
        return self._id(self.unk_token)

    def _id(self, token: str | None) -> int | None:
        return None if token is None else self.backend_tokenizer.token_to_id(token)

    def get_vocab(self) -> dict[str, int]:
        """All tokens with their ids."""
        return self.backend_tokenizer.get_vocab(with_added_tokens=True)

    def get_added_vocab(self) -> dict[str, int]:
        """Those that were added to the vocabulary."""
        added = self.backend_tokenizer.get_added_tokens_decoder()
        return {token.content: number for number, token in sorted(added.items())}

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """Id of a token; that of the unknown one where there is no such."""
        found = self.backend_tokenizer.token_to_id(token)
        return self.unk_token_id if found is None else found

    def __call__(self, text: str | Sequence[str], add_special_tokens: bool = True) -> Ids:
        """Token ids of one text, or of each of several."""
        if isinstance(text, str):
            return Ids(self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)
        found = self.backend_tokenizer.encode_batch(list(text), add_special_tokens=add_special_tokens)
        return Ids([encoding.ids for encoding in found])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, control tokens as they are written."""
        return self.backend_tokenizer.decode(list(ids), skip_special_tokens=False)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a saved bundle that was verified: from its file where that is enough, else by transformers.

    Raises:
        ModelError: the files are not of a bundle, or the tokenizer is another than the model's.
    """
    found = read_tokenizer(folder)
    if found is not None:
        return found
    from transformers import AutoTokenizer

    usual = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    if tokenizer_digest(usual) != read_identity(folder)["parts"]["tokenizer"]:
        raise ModelError(f"{folder}: the tokenizer is not the one this model was saved with: save the bundle again")
    return usual


def read_tokenizer(folder: Path) -> FileTokenizer | None:
    """The tokenizer of a saved bundle that was verified; none = its file alone is not enough.

    Raises:
        ModelError: the files are not of a bundle.
    """
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    has_template = config.get("chat_template") or (folder / "chat_template.jinja").exists()
    if has_template or config.get("clean_up_tokenization_spaces") or not (folder / "tokenizer.json").exists():
        return None
    core = Tokenizer.from_file(str(folder / "tokenizer.json"))
    core.no_truncation()
    core.no_padding()
    found = FileTokenizer(core, config)
    return found if tokenizer_digest(found) == read_identity(folder)["parts"]["tokenizer"] else None


def _values(listed: Any) -> Sequence[Any]:
    """Special tokens of a list, or of a table by name."""
    return list(listed.values()) if isinstance(listed, dict) else listed or ()


def _content(token: Any) -> str | None:
    """The text of a token, which may stand there with its flags."""
    return token.get("content") if isinstance(token, dict) else token
