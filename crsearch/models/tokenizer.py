"""A domain tokenizer: JSON glue is one token, a word is the same token everywhere, nothing is unknown.

A context is mostly JSON glue, which a tokenizer of general text cuts into many pieces. Here ``","query":"`` is one
pre-token, so that byte-pair encoding makes it one token; ordinary text stays cut into words, with their leading space.
The first word of a JSON string has no space before it; the normaliser puts one there (and the decoder takes it away),
so that ``phone`` in ``"title":"phone case"`` and in ``Wants phone`` is one token: a small model copies by equality.

Source: details: this project.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from crsearch.context.prompts import CONTROL, END, PAD

_PRE_TOKENS = "|".join(
    (
        r'(?:[{}\[\],"]*"[\p{L}_ ]{1,24}":)+[\[{"]*',  # JSON glue up to the next value
        r" ?\\(?:u[0-9a-f]{4}|[\"\\/bfnrt])",  # JSON escapes
        r" ?(?:19|20)\d\d-[01]\d",  # year and month
        r" ?\p{N}{1,2}",
        r" ?\p{Han}+",
        r" ?[[\p{L}\p{M}]&&[^\p{Han}]]+",
        r'[{}\[\]",]+',
        r' ?[^\s\p{L}\p{M}\p{N}{}\[\]",\\]+',
        r"\s+",
    )
)

_OPENERS = (':"', '["', ',"')
_STRING_FOLLOWS = r'(?![\p{L}_][\p{L}_ ]{0,23}":)(?=[\p{L}\p{N}\s])'  # not a key, but a word or white space
"""After an opening quote: the start of a string. White space counts: a real leading space stays apart."""


def train_tokenizer(texts: Iterable[str], vocabulary: int, sid_tokens: Sequence[str]) -> Any:
    """Train byte-level BPE on the texts of a shop.

    Args:
        texts: item records, contexts, thoughts; control tokens in them are skipped.
        vocabulary: most tokens, control tokens and semantic IDs not counted; at least 256 (the bytes).
        sid_tokens: every token of the semantic IDs, in order.

    Returns:
        A ``PreTrainedTokenizerFast``: ids [0, vocabulary) text, then control tokens, then semantic IDs.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(re.escape(o) + _STRING_FOLLOWS), f"{o} ") for o in _OPENERS]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PRE_TOKENS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), *(decoders.Replace(f"{o} ", o) for o in _OPENERS)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    control = (*CONTROL, *sid_tokens)
    tokenizer.train_from_iterator(_without(texts, control), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, clean_up_tokenization_spaces=False
    )


def _without(texts: Iterable[str], control: Sequence[str]) -> Iterator[str]:
    """The texts between control tokens, as the tokenizer will see them."""
    pattern = re.compile("|".join(map(re.escape, sorted(control, key=len, reverse=True))))
    for text in texts:
        yield from filter(None, pattern.split(text))
