"""What a run will do: stages, steps, tokens and their share of the time; for the ETA and ``--dry-run``."""

import math
from dataclasses import dataclass
from pathlib import Path

from crsearch.config import Settings
from crsearch.pipeline.refuse import refuse_unknown_searchers
from crsearch.pipeline.systems import BASELINES, SYSTEMS, cut_tokens
from crsearch.train.supervised import steps_for


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Counts that the plan depends on."""

    train: int
    valid: int
    test: int
    items: int
    trunk_tokens: float = 170.0
    """Mean tokens of a context."""
    item_tokens: float = 30.0
    """Mean tokens of an item example."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """One stage.

    Attributes:
        name: as in the manifest.
        steps: optimiser steps.
        trained: tokens of the training passes.
        thoughts: thoughts written.
        answers: ranked lists made.
    """

    name: str
    steps: int = 0
    trained: float = 0.0
    thoughts: int = 0
    answers: int = 0

    def seconds(self, rates: "Rates") -> float:
        """Expected duration."""
        return (
            rates.overhead
            + self.trained / rates.trained
            + self.thoughts / rates.thoughts
            + self.answers / rates.answers
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """Speed of this machine, per second. The defaults are one core and the demo's model; only ratios matter for ETA."""

    trained: float = 12_000.0
    """Training tokens."""
    thoughts: float = 150.0
    """Thoughts of the budget's length, sampled in batches."""
    answers: float = 250.0
    """Ranked lists."""
    overhead: float = 0.5
    """Seconds per stage for reading and writing."""


def _thoughts(system: str, settings: Settings) -> float:
    """Thoughts per query of a system, in thoughts of the budget's length."""
    cut = cut_tokens(settings) / settings.decode.think_tokens
    return {"crs": 1.0, "crs-fused": 1.0, "crs-cut-thought": cut}.get(system, 0.0)


def plan(settings: Settings, sizes: Sizes) -> list[Planned]:
    """Every stage of a run in order, with its expected work.

    Raises:
        ConfigError: an unknown searcher.
    """
    refuse_unknown_searchers(settings.evaluate.searchers, SYSTEMS)
    aligned = round(sizes.train * settings.align.share)
    fresh = sizes.train - aligned
    think = sizes.trunk_tokens + settings.decode.think_tokens
    valid = min(sizes.valid, settings.loop.valid_users)
    test = min(sizes.test, settings.evaluate.max_users or sizes.test)
    out = [Planned(name="data"), Planned(name="sids"), Planned(name="distill"), Planned(name="base")]

    config = settings.align
    steps = steps_for(aligned, config.batch, config.epochs, config.max_steps)
    items = math.ceil(sizes.items / max(1, math.ceil(aligned / config.batch)))
    per_step = config.batch * (sizes.trunk_tokens + 30) + 2 * items * sizes.item_tokens
    out.append(Planned(name="align", steps=steps, trained=steps * per_step))

    def reasoning(name: str, examples: int, batch: int, epochs: int, most: int | None) -> Planned:
        steps = steps_for(examples, batch, epochs, most)
        return Planned(name=name, steps=steps, trained=steps * batch * (think + 15 + sizes.item_tokens))

    taught = min(settings.distill.users, aligned) * settings.distill.repeats
    out.append(reasoning("sft0", taught, settings.distill.batch, settings.distill.epochs, settings.distill.max_steps))
    rl, sft = settings.rl, settings.sft
    for i in range(settings.loop.iterations):
        if settings.loop.rl:
            users = fresh if rl.users == "fresh" else sizes.train
            if rl.hard_only:
                out.append(Planned(name=f"rl{i}.select", thoughts=users, answers=users))
            rollouts = rl.steps * rl.prompts * rl.group_size
            tokens = rl.steps * rl.prompts * (sizes.trunk_tokens + rl.group_size * (settings.decode.think_tokens + 5))
            out.append(
                Planned(name=f"rl{i}", steps=rl.steps, trained=tokens * rl.updates, thoughts=rollouts, answers=rollouts)
            )
        users = sizes.train if sft.users == "all" else fresh
        asked = users * sft.samples
        out.append(Planned(name=f"sft{i + 1}.select", thoughts=asked, answers=asked))
        out.append(reasoning(f"sft{i + 1}", users // 3, sft.batch, sft.epochs, sft.max_steps))
    thinking = [p.name for p in out if p.name.startswith(("sft", "rl")) and "." not in p.name]
    per_iteration = (1 + settings.loop.rl) if settings.loop.iterations else len(thinking)
    if "crs-direct" in settings.evaluate.searchers:
        early = sum(p.trained for p in out if p.name in thinking[:-per_iteration])
        late = sum(p.trained for p in out if p.name in thinking) - early
        out += [Planned(name="direct0", trained=early)] if early else []
        out.append(Planned(name="direct", trained=late))
    whole = sum(p.trained for p in out if p.name in (*thinking, "align"))
    out += [Planned(name=name, trained=whole) for name in BASELINES if name in settings.evaluate.searchers]
    if settings.loop.select == "valid":
        out += [Planned(name=f"valid.{name}", thoughts=valid, answers=valid) for name in thinking]
    for name in settings.evaluate.searchers:
        thinks, has_model = _thoughts(name, settings), bool(SYSTEMS[name].stage)
        out.append(Planned(name=f"eval.{name}", thoughts=round(test * thinks), answers=test * has_model))
    out.append(Planned(name="eval.stage.align", answers=test))
    out += [Planned(name=f"eval.stage.{name}", thoughts=test, answers=test) for name in thinking]
    return out


def expected_sizes(settings: Settings) -> Sizes:
    """Counts of the records before they are read: of the tables, or of the simulated shop before it is made."""
    if settings.data is not None and (counted := _table_sizes(Path(settings.data))):
        return counted
    users = settings.simulate.users
    test, valid = round(users * settings.split.test), round(users * settings.split.valid)
    return Sizes(train=users - test - valid, valid=valid, test=test, items=settings.simulate.items)


def _table_sizes(folder: Path) -> Sizes | None:
    """Counts of the tables of a data set; none where they cannot be read (whoever loads them says why)."""
    import polars as pl

    try:
        parts = pl.read_parquet(folder / "split.parquet", columns=["part"])["part"].to_list()
        items = pl.scan_parquet(folder / "items.parquet").select(pl.len()).collect().item()
    except (OSError, pl.exceptions.PolarsError):
        return None
    return Sizes(train=parts.count("train"), valid=parts.count("valid"), test=parts.count("test"), items=items)
