"""TIGER: the semantic IDs of what a user chose before -> that of the next item.

A sequential recommender: it reads neither the query nor anything else of the context. It is a sanity baseline for
identifiers and decoder, and shows how much of a target the history alone decides.

Source: TIGER as METHODS describes it; training pairs, budget and what is marked so: details of this project.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from crsearch.decode.prefix import padded
from crsearch.models.tiger import fresh_tiger, save_tiger
from crsearch.records.store import Catalogue
from crsearch.records.types import Context, Example
from crsearch.train.examples import device_of, draw
from crsearch.train.supervised import Workbench, steps_for
from crsearch.train.trainer import Losses, stream
from crsearch.train.tree import rounded_up

WIDTH_STEP = 16
"""Prompts of a batch are filled up to a multiple of this: matrix kernels are compiled, and kept, for each shape."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A history and what was chosen next, as catalogue rows."""

    user_id: str
    before: tuple[int, ...]
    after: int


def chosen_rows(context: Context, catalogue: Catalogue) -> tuple[int, ...]:
    """Items of the catalogue that were chosen in the history, oldest first."""
    chosen = [i for search in context.history for i in search.chosen]
    return tuple(catalogue.row(i) for i in chosen if i in catalogue)  # type: ignore[comparison-overlap]


def training_pairs(examples: Sequence[Example], catalogue: Catalogue, *, history: bool) -> list[Pair]:
    """One pair per example; with ``history`` also one for every item chosen after another one."""
    pairs = []
    for example in examples:
        rows = chosen_rows(example.context, catalogue)
        user = example.context.user_id
        if history:
            pairs += [Pair(user, rows[:n], rows[n]) for n in range(1, len(rows))]
        pairs.append(Pair(user, rows, catalogue.row(example.target)))
    return pairs


def train_tiger(bench: Workbench, stage: str, key: str, examples: Sequence[Example], tokens: float) -> dict[str, float]:
    """Train from scratch, and write the model to ``models/<stage>`` of the run (``load_tiger``).

    The model of ``bench`` is not touched; its semantic IDs are used.

    Args:
        examples: training examples.
        tokens: most to train on; ``baselines.tiger.epochs`` passes end it earlier.

    Returns:
        Sums over the stage (``tokens_sum``).
    """
    config, builder = bench.settings.baselines.tiger, bench.builder
    pairs = training_pairs(examples, builder.catalogue, history=config.history_targets)
    tiger = fresh_tiger(builder.prompts.serialiser.sids, config, stream(bench.seed, stage, "weights"))
    model = tiger.model.to(device_of(builder.bundle.model)).train()
    prompts = [tiger.prompt(p.user_id, p.before) for p in pairs]
    per_step = config.batch * (sum(map(len, prompts)) / len(prompts) + tiger.sid_ids_NL.shape[1])
    steps = min(max(1, round(tokens / per_step)), steps_for(len(pairs), config.batch, config.epochs, config.max_steps))

    def losses(step: int) -> Losses:
        chosen = draw(bench.seed, stage, len(pairs), config.batch, step)
        answer_BL = torch.from_numpy(tiger.sid_ids_NL[[pairs[i].after for i in chosen]])
        with torch.random.fork_rng():  # dropout draws from the global state
            torch.manual_seed(stream(bench.seed, stage, "dropout", step))
            loss = next_item_loss(model, [prompts[i] for i in chosen], answer_BL)
        seen = sum(len(prompts[i]) for i in chosen) + answer_BL.numel()
        yield loss, {"loss_next": float(loss.detach()), "tokens_sum": float(seen)}

    trainer = replace(bench.trainer(stage, key, config.optim), model=model, pretrained=False)
    sums = trainer.train(steps, losses)
    save_tiger(tiger, bench.run.path / "models" / stage)
    return sums


def next_item_loss(model: Any, prompts: Sequence[Sequence[int]], answer_BL: Int64[Tensor, "B L"]) -> Tensor:
    """Cross-entropy (float32) of the tokens of the next semantic ID, mean over tokens."""
    device = device_of(model)
    ids_BT, lengths_B = padded(prompts, device)
    ids_BT = nn.functional.pad(ids_BT, (0, rounded_up(ids_BT.shape[1], WIDTH_STEP) - ids_BT.shape[1]))
    answer_BL = answer_BL.to(device)
    start_B1 = answer_BL.new_full((len(answer_BL), 1), model.config.decoder_start_token_id)
    logits_BLV = model(
        input_ids=ids_BT,
        attention_mask=(torch.arange(ids_BT.shape[1], device=device) < lengths_B[:, None]).long(),
        decoder_input_ids=torch.cat([start_B1, answer_BL[:, :-1]], dim=1),
        use_cache=False,
    ).logits
    return nn.functional.cross_entropy(logits_BLV.flatten(0, 1).float(), answer_BL.flatten())
