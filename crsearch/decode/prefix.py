"""Three ways to read a prompt once and score what may follow; the beam knows only `Stepper`.

`PrefixTree`    causal models: prompt read once, keys shared by all rows (the fast way).
`Recompute`     causal models of any kind: every step reads prompt and beams anew (the slow, obvious way).
`EncoderRows`   encoder-decoders (T5 type): encoder once, decoder rows read anew (at most L + 1 tokens).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from copy import copy
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from crsearch.decode.attention import PackedRead, PromptRead, TreeCache, reading, tree_attention
from crsearch.decode.store import Held, Owners, PrefixStore, per_owner
from crsearch.errors import DataError, ModelError
from crsearch.models.causal import keeps

Prompt = Sequence[int] | Float[Tensor, "_ _"]
"""Token ids of a context, or its input embeddings (``T D``), where a position may hold a vector of no token."""


@runtime_checkable
class Stepper(Protocol):
    """A model on a batch of branches, each with a growing set of rows (beams)."""

    def start(self) -> Float[Tensor, "n 1 V"]:
        """Logits after the prompt of each branch."""
        ...

    def step(self, parents: Int64[Tensor, "n M"], tokens: Int64[Tensor, "n M"]) -> Float[Tensor, "n M V"]:
        """Rows become ``row[parents] + tokens``; logits after them."""
        ...


@contextmanager
def decoding(model: nn.Module, cache: bool = True) -> Iterator[None]:
    """Inference mode, no dropout and, for causal models with a cache, tree attention; all comes back at the end.

    Raises:
        ModelError: the model's layers do not use transformers' attention interface.
    """
    training, tree = model.training, cache and not _is_encoder_decoder(model)
    if tree and not getattr(model, "_supports_attention_backend", False):
        raise ModelError(
            f"{type(model).__name__} does not use transformers' attention interface: pass cache=False (slower)"
        )
    if training:
        model.eval()
    try:
        with torch.inference_mode(), tree_attention(model) if tree else nullcontext():
            yield
    finally:
        if training:
            model.train()


def _is_encoder_decoder(model: nn.Module) -> bool:
    return bool(getattr(model.config, "is_encoder_decoder", False))


def device_of(model: nn.Module) -> torch.device:
    """Where the inputs of the model belong."""
    return next(model.parameters()).device


def check_prompts(prompts: Sequence[Prompt]) -> None:
    """Raises:
    DataError: a prompt is empty, or some are token ids and some are embeddings.
    """
    for i, prompt in enumerate(prompts):
        if not len(prompt):
            raise DataError(f"prompt {i} has no tokens: give at least one token id")
    if len({is_embedded(prompt) for prompt in prompts}) > 1:
        raise DataError("some prompts are token ids and some are embeddings: search them apart")


def is_embedded(prompt: Prompt) -> bool:
    """Whether a prompt is input embeddings and not token ids."""
    return isinstance(prompt, Tensor) and prompt.is_floating_point()


def padded(prompts: Sequence[Prompt], device: torch.device) -> tuple[Shaped[Tensor, "B T *D"], Int64[Tensor, " B"]]:
    """Prompts as one array (``B T`` ids or ``B T D`` embeddings), zeros on the right, and their lengths."""
    rows = [p if is_embedded(p) else torch.as_tensor(p, dtype=torch.int64) for p in prompts]
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device), lengths  # type: ignore[arg-type]


def reads(text: Shaped[Tensor, "B T *D"]) -> dict[str, Tensor]:
    """The argument of a model's forward pass that takes token ids, or embeddings."""
    return {"inputs_embeds": text} if text.is_floating_point() else {"input_ids": text}


class PrefixTree:
    """A causal model that read each prompt once; ``group`` branches per prompt, rows within a branch.

    All tokens of a prompt but the last are its shared segment; the last one is the first token of every branch.
    """

    def __init__(
        self,
        model: nn.Module,
        prompts: Sequence[Prompt],
        group: int,
        slots: int,
        store: PrefixStore | None = None,
        owners: Owners = None,
    ) -> None:
        """Read the prompts; all within `decoding`.

        Args:
            model: any transformers causal model whose layers use the attention interface.
            prompts: token ids (or input embeddings) of each context.
            group: branches per context (G).
            slots: most tokens a branch will hold, those of all its rows counted, its first one too.
            store: where keys and values of earlier prompts lie, and these are kept; embeddings are always read.
            owners: whose prompts they are, for the store.
        """
        self.model, self.group = model, group
        layers = model.config.get_text_config().num_hidden_layers  # type: ignore[union-attr,operator]
        device = device_of(model)
        self.cache = TreeCache([len(p) - 1 for p in prompts], device, layers, group, slots)
        if self.cache.reads_prompt:
            texts = [p[:-1] for p in prompts]
            if store is None or is_embedded(texts[0]):
                self._read(padded(texts, device)[0], torch.arange(self.cache.longest, device=device)[None], self.cache)
            else:
                held = [store.find(model, t, o) for t, o in zip(texts, per_owner(owners, len(texts)), strict=True)]
                self._read_rest(held, store)
        last_B1, _ = padded([p[-1:] for p in prompts], device)
        self.first_BG1 = last_B1[:, None].expand(-1, group, *last_B1.shape[1:])
        self.paths_BGMS = torch.zeros(len(prompts), group, 1, slots, dtype=torch.bool, device=device)

    def _read_rest(self, held: Sequence[Held], store: PrefixStore) -> None:
        """Read what the store does not hold of the prompts, and keep it there."""
        reader = PackedRead([h.blocks for h in held], self.cache.lengths_B, self.cache.layers)
        rest = [h.tokens[n:] for h, n in zip(held, reader.held, strict=True)]
        text_M = torch.tensor([t for tokens in rest for t in tokens], device=reader.position_M.device)
        self._read(text_M[None], reader.position_M[None], reader)
        self.cache.prompt = reader.prompt
        for row, found in enumerate(held):
            store.keep(found, reader.prompt, row)

    def _read(self, text: Shaped[Tensor, "B T *D"], position_BT: Tensor, into: TreeCache | PackedRead) -> None:
        with reading(into), suppress(PromptRead):
            self.model(**reads(text), **keeps(self.model, into), position_ids=position_BT)
        if len(into.prompt) < into.layers:
            raise ModelError(
                f"{type(self.model).__name__}: {len(into.prompt)} of {into.layers} layers keep keys and values: pass "
                "cache=False (slower)"
            )

    def extend(
        self, tokens_BGM: Shaped[Tensor, "B G M *D"], parents_BGM: Int64[Tensor, "B G M"] | None = None
    ) -> Float[Tensor, "B G M V"]:
        """One more token (or embedding) per row; rows descend from ``parents`` (None = each from itself)."""
        B, G, M = tokens_BGM.shape[:3]
        cache, used = self.cache, self.cache.used
        paths = self.paths_BGMS
        if parents_BGM is not None:
            paths = paths.gather(2, parents_BGM[..., None].expand(-1, -1, -1, paths.shape[-1]))
        position_BGM = cache.lengths_B[:, None, None] + paths.sum(-1)
        own_M = torch.arange(M, device=paths.device)
        paths = paths.clone()
        paths[:, :, own_M, used + own_M] = True
        self.paths_BGMS = paths
        cache.open_slots(M, paths)
        with reading(cache):
            out = self.model(
                **reads(tokens_BGM.flatten(1, 2)), **keeps(self.model, cache), position_ids=position_BGM.flatten(1)
            )
        if cache.attended != cache.steps * cache.layers:
            raise ModelError(
                f"{type(self.model).__name__}: {cache.attended} of {cache.steps * cache.layers} layers attended to the "
                "shared prefix; some have attention of their own: pass cache=False (slower)"
            )
        logits: Tensor = out.logits
        return logits.view(B, G, M, -1).float()

    def subset(self, context_B: Int64[Tensor, " b"], branch_BG: Int64[Tensor, "b g"], slots: int) -> "PrefixTree":
        """A copy that holds some contexts (ascending), of each as many branches, and ``slots`` slots."""
        part = copy(self)
        part.cache, part.group = self.cache.subset(context_B, branch_BG, slots), branch_BG.shape[1]
        part.paths_BGMS = self.paths_BGMS[context_B[:, None], branch_BG][..., :slots]
        return part

    def start(self) -> Float[Tensor, "n 1 V"]:
        """Logits after each prompt."""
        return self.extend(self.first_BG1).flatten(0, 1)

    def step(self, parents: Int64[Tensor, "n M"], tokens: Int64[Tensor, "n M"]) -> Float[Tensor, "n M V"]:
        """One more token per row; n = contexts x branches."""
        shape = (-1, self.group)
        return self.extend(tokens.unflatten(0, shape), parents.unflatten(0, shape)).flatten(0, 1)


class _Rows:
    """Rows kept as token lists; subclasses read them anew at every step."""

    def __init__(self, n: int, device: torch.device) -> None:
        self.text_nMT = torch.zeros(n, 1, 0, dtype=torch.int64, device=device)

    def start(self) -> Float[Tensor, "n 1 V"]:
        """Logits after each prompt."""
        return self.read()

    def step(self, parents: Int64[Tensor, "n M"], tokens: Int64[Tensor, "n M"]) -> Float[Tensor, "n M V"]:
        """One more token per row."""
        kept = self.text_nMT.gather(1, parents[..., None].expand(-1, -1, self.text_nMT.shape[2]))
        self.text_nMT = torch.cat([kept, tokens[..., None]], dim=-1)
        return self.read()

    def read(self) -> Float[Tensor, "n M V"]:
        """Logits after the last token of each row."""
        raise NotImplementedError


class Recompute(_Rows):
    """A causal model without any cache."""

    def __init__(self, model: nn.Module, prompts: Sequence[Prompt]) -> None:
        super().__init__(len(prompts), device_of(model))
        self.model, self.prompts = model, prompts

    def read(self) -> Float[Tensor, "n M V"]:
        """Logits after the last token of each row, prompt by prompt."""
        logits = []
        for prompt, text_MT in zip(self.prompts, self.text_nMT, strict=True):
            prompt_1T, _ = padded([prompt], text_MT.device)
            tail = self.model.get_input_embeddings()(text_MT) if is_embedded(prompt) else text_MT  # type: ignore[operator]
            text = torch.cat([prompt_1T.expand(len(text_MT), *prompt_1T.shape[1:]), tail], dim=1)
            logits.append(self.model(**reads(text), use_cache=False, logits_to_keep=1).logits[:, -1])
        return torch.stack(logits).float()


class EncoderRows(_Rows):
    """An encoder-decoder: prompts go through the encoder once, rows are what the decoder wrote."""

    def __init__(self, model: nn.Module, prompts: Sequence[Prompt]) -> None:
        super().__init__(len(prompts), device_of(model))
        self.model = model
        text_BT, lengths_B = padded(prompts, self.text_nMT.device)
        self.mask_BT = (torch.arange(text_BT.shape[1], device=text_BT.device) < lengths_B[:, None]).long()
        encoder = model.get_encoder()  # type: ignore[operator]
        self.state_BTD = encoder(**reads(text_BT), attention_mask=self.mask_BT).last_hidden_state
        start = model.config.decoder_start_token_id  # type: ignore[union-attr]
        if start is None:
            raise ModelError(f"{type(model).__name__}: config.decoder_start_token_id is not set: set it")
        self.start_id = int(start)  # type: ignore[arg-type]

    def read(self) -> Float[Tensor, "n M V"]:
        """Logits after the last token of each row."""
        from transformers.modeling_outputs import BaseModelOutput

        n, M, _ = self.text_nMT.shape
        begin = self.text_nMT.new_full((n, M, 1), self.start_id)
        out = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.state_BTD.repeat_interleave(M, 0)),
            attention_mask=self.mask_BT.repeat_interleave(M, 0),
            decoder_input_ids=torch.cat([begin, self.text_nMT], dim=-1).flatten(0, 1),
            use_cache=False,
        )
        logits: Tensor = out.logits[:, -1]
        return logits.view(n, M, -1).float()


def stepper(
    model: nn.Module,
    prompts: Sequence[Prompt],
    slots: int,
    cache: bool,
    store: PrefixStore | None = None,
    owners: Owners = None,
) -> Stepper:
    """The way that fits the model.

    Raises:
        ModelError: a store for a model without shared prefixes.
    """
    if _is_encoder_decoder(model):
        if store is not None:
            raise ModelError(f"{type(model).__name__}: an encoder-decoder has no prefix to keep: pass store=None")
        return EncoderRows(model, prompts)
    return PrefixTree(model, prompts, 1, slots, store, owners) if cache else Recompute(model, prompts)
