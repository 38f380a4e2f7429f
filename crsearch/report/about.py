"""Sections on what went in: the data set, the semantic IDs, settings and versions."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

from crsearch.report import paper
from crsearch.report.found import Found
from crsearch.report.parts import NONE, Cell, Listing, Pairs, Part, Prose, Section, Table
from crsearch.report.values import count, optional, percent, plain

_STATISTICS = {
    "users": "users",
    "items": "items",
    "queries": "unique queries",
    "queries_per_user": "queries per user, mean",
    "clicks_per_user": "clicks per user, mean",
    "codes": "codes per layer of the semantic ID",
    "purchases_per_user": "purchases per user, mean",
    "searches": "searches",
    "shown_per_search": "items shown per search, mean",
    "searches_without_choice": "searches without a choice",
    "repeated_targets": "targets that the user had chosen before",
    "train_users": "training users",
    "valid_users": "validation users",
    "test_users": "test users",
    "first_time": "first search",
    "last_time": "last search",
}
_SHARES = {"searches_without_choice", "repeated_targets"}


def data(found: Found) -> Section:
    """Table 1 of the paper with the numbers of this run."""
    numbers = {**found.results.get("data", {}), "codes": found.settings.sids.codes}
    source = (
        "The data are a simulated shop, so the best possible ranking is known."
        if found.simulated
        else f"The data were imported from {found.settings.data}."
    )
    return Section("data", "Data", [Prose(f"{source} {_split(found)}"), statistics(numbers)])


def _split(found: Found) -> str:
    """How examples were given to training and test, as the records show it."""
    data = found.dataset
    parts = {(s.user_id, data.targets[s.search_id][1]) for s in data.searches if s.search_id in data.targets}
    if len(parts) == len({user for user, _ in parts}):
        return "The split is by user: no user is on two sides."
    return (
        "The split is by time within each user (leave-one-out: the last choice is test, the one before it validation), "
        "so test users were seen in training."
    )


def statistics(numbers: Mapping[str, Any]) -> Table:
    """Numbers of a data set by the names of ``records.statistics``, beside those of the paper's data sets."""
    return Table(
        caption="The data set of this run and those of the paper (its table 1).",
        header=("", "this run", *(f"paper, {name}" for name in paper.DATASETS)),
        rows=[
            (Cell(title), _statistic(name, numbers[name]), *_paper_statistics(name))
            for name, title in _STATISTICS.items()
            if numbers.get(name) is not None
        ],
    )


def _statistic(name: str, value: Any) -> Cell:
    if isinstance(value, str):
        return Cell(value[:16].replace("T", " "))
    if name in _SHARES:
        return Cell(percent(value))
    return count(value) if float(value).is_integer() else Cell(plain(value, 2))


def _paper_statistics(name: str) -> list[Cell]:
    if name not in paper.STATISTICS:
        return [NONE] * len(paper.DATASETS)
    return [_statistic(name, value) for value in paper.STATISTICS[name]]


def semantic_ids(found: Found) -> Section:
    """Use of the codes and loss of the quantiser, per layer."""
    quality = found.json("sids", "quality.json")
    if quality is None:
        return Section("sids", "Semantic IDs", [Prose("The run holds no sids/quality.json, so nothing is said here.")])
    rows = [
        (
            Cell(str(number)), count(layer["codes"]), count(layer["used"]), optional(layer, "entropy", 2),
            optional(layer, "perplexity", 1), optional(layer, "reconstruction_error", 4),
            Cell(percent(layer["relative_error"])) if "relative_error" in layer else NONE,
        )
        for number, layer in enumerate(quality["layers"], 1)
    ]  # fmt: skip
    text = (
        f"{quality['items']:,} items fall into {quality['buckets']:,} combinations of codes; "
        f"{percent(quality['uniquely_identified_rate'])} of the items are alone in theirs, {quality['collisions']:,} "
        f"need a deduplication code above 0, and {quality['largest_bucket']:,} share the largest combination. "
        "Perplexity = exp(entropy in nats): the number of codes that would be used this evenly. "
        "The error is the mean squared distance between an embedding and the sum of its centroids up to that layer; "
        "the last column divides it by the mean squared distance of the embeddings to their mean."
    )
    table = Table(
        caption="Layers of the semantic IDs.",
        header=("layer", "codes", "used", "entropy", "perplexity", "error", "error, relative"),
        rows=rows,
    )
    warnings = [Prose(f"Warning: {warning}") for warning in quality.get("warnings", [])]
    return Section("sids", "Semantic IDs", [Prose(text), table, *warnings])


_VERSIONS = ("crsearch", "python", "torch", "transformers", "device", "threads", "seed")


def remake(found: Found) -> Section:
    """Versions, settings, and the commands that make run and report again."""
    manifest, name, again = found.run.manifest, shlex.quote(found.name), shlex.quote(f"{found.name}-again")
    facts = [(key, str(manifest[key])) for key in _VERSIONS if key in manifest]
    base = found.stage_numbers("base")
    if base:
        facts.append(("model", f"{base['parameters']:,} parameters, {base['vocabulary']:,} tokens in the vocabulary"))
    if "data" in manifest:
        facts.append(("data (sha256)", str(manifest["data"])))
    threads = f" --threads {manifest['threads']}" if "threads" in manifest else ""
    commands = f"crsearch run {name}/settings.toml --out {again}{threads}\ncrsearch report {again}"
    file = (found.folder / "settings.toml").read_text(encoding="utf-8")
    parts: list[Part] = [
        Pairs(facts),
        Listing("From the folder that holds this run, these commands make it and its report again", commands),
        Listing("All settings of the run", without_passwords(file), folded=True),
    ]
    return Section("remake", "Settings and versions", parts)


def without_passwords(text: str) -> str:
    """A text with the user part of every address hidden.

    >>> without_passwords("url = \\"https://me:secret@host/v1\\"")
    'url = "https://***@host/v1"'
    """
    return re.sub(r"(?<=://)[^/@\s\"']+@", "***@", text)
