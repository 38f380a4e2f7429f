"""What cannot work is said before anything expensive begins, and before anything is written."""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from crsearch.config import Settings
from crsearch.errors import ConfigError, DataError, RunError
from crsearch.evaluate.trec import read_qrels
from crsearch.records.store import Dataset
from crsearch.records.types import Part
from crsearch.runs import RunDirectory

QRELS = "qrels.trec"
"""The targets of a run's test queries, beside its run files."""

TRUTH = "truth.parquet"
"""What the simulated shop knows, beside its records."""


def refuse_unknown_searchers(names: Collection[str], known: Collection[str]) -> None:
    """Raise if a searcher is not known.

    Raises:
        ConfigError: with the first such name, and those there are.
    """
    for name in names:
        if name not in known:
            raise ConfigError(f"evaluate.searchers: {name!r} is not one of {', '.join(known)}")


def refuse_impossible(settings: Settings, records: Path | None) -> None:
    """Raise if the settings ask for what is not there.

    Args:
        settings: of the run.
        records: folder of the records; none = the simulated shop.

    Raises:
        ConfigError: the analyst of a simulated shop is asked for, but the records are not simulated.
        ModelError: ``model.path`` is no folder that may be loaded, or not one of a causal model.
    """
    if settings.distill.teacher == "analyst" and records is not None and not (records / TRUTH).exists():
        raise ConfigError(
            f'distill.teacher = "analyst": only the simulated shop has one, not {records}; '
            'set distill.teacher = "template", or "openai" with distill.url'
        )
    if settings.model.path is not None:
        from crsearch.models.causal import causal_config

        causal_config(Path(settings.model.path))


def refuse_other_run(run: RunDirectory, facts: Mapping[str, Any], records: Path | None) -> None:
    """Raise if a run directory holds stages of other records or of another number of threads.

    Args:
        run: the run directory; one without a finished stage may become anything.
        facts: ``data`` (digest) and ``threads`` of now.
        records: folder of the records of now; none = the simulated shop.

    Raises:
        RunError: what differs, and how to go on.
    """
    before = {**facts, **run.manifest} if run.manifest["stages"] else facts
    if before["data"] != facts["data"]:
        again = f"crsearch run {run.path}/settings.toml --out {run.path} --resume"
        made, how = (
            ("settings (simulate, split, seed)", f"Go on with `{again}`")
            if records is None
            else (f"records (now {records})", f"Go on with its own, of which {run.path}/data is a copy")
        )
        raise RunError(f"{run.path}: this run was made from other {made}. {how}, or choose another --out")
    if before["threads"] != facts["threads"]:
        raise RunError(
            f"{run.path}: was made with {before['threads']} threads, now {facts['threads']}: the bits would differ. "
            f"Go on with --threads {before['threads']}, or choose another --out"
        )


def refuse_other_test(run: Path, other: Path) -> None:
    """Raise if numbers of two runs cannot stand side by side: other test queries, or another catalogue.

    Equal queries are not enough: items that one catalogue lacks cannot take a place in its lists.

    Args:
        run: folder of a finished run.
        other: that of the run to compare with.

    Raises:
        DataError: what differs first.
    """
    _refuse_other_queries(run, other)
    own, its = (Dataset.load(folder / "data").catalogue for folder in (run, other))
    if own == its:
        return
    row = next((n for n, pair in enumerate(zip(own, its, strict=False)) if pair[0] != pair[1]), min(len(own), len(its)))
    shown = [f"{c[row].item_id!r} ({c[row].title})" if row < len(c) else "nothing" for c in (own, its)]
    raise DataError(
        f"{run} ({len(own):,} items) and {other} ({len(its):,} items) have other catalogues: row {row:,} is {shown[0]} "
        f"and {shown[1]}. Numbers of different catalogues cannot be compared; give runs of the same records"
    )


def _refuse_other_queries(run: Path, other: Path) -> None:
    own, its = (read_qrels(folder / "eval" / QRELS) for folder in (run, other))
    if own == its:
        return
    search = min(s for s in own.keys() | its.keys() if own.get(s) != its.get(s))
    targets = " and ".join(repr(of.get(search, "not there")) for of in (own, its))
    raise DataError(
        f"{run} ({len(own):,} queries) and {other} ({len(its):,} queries) were tested on other queries: the target of "
        f"search {search!r} is {targets}. Give runs of one split"
    )


def refuse_empty_parts(dataset: Dataset, settings: Settings) -> None:
    """Raise if there is nobody to learn from, to choose by, or to test on.

    Raises:
        DataError: a part without an example.
    """
    users = Counter(part for _, part in dataset.targets.values())  # split by user: one example per user
    parts: tuple[Part, ...] = ("train", "test", "valid") if settings.loop.select == "valid" else ("train", "test")
    for part in parts:
        if not users[part]:
            mend = "lower split.test and split.valid" if part == "train" else f"raise split.{part}"
            also = ', or set loop.select = "last"' if part == "valid" else ""
            raise DataError(
                f"none of the {users.total():,} users with a choice is a {part} user: {mend} when importing or "
                f"simulating{also}"
            )
    if not round(users["train"] * settings.align.share):
        raise DataError(f"align.share = {settings.align.share} of {users['train']} training users is nobody: raise it")
