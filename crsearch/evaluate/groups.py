"""Test queries by kind of user, of target and of query, for tables per group."""

from collections.abc import Mapping, Sequence

from crsearch.records.types import Example

Groups = dict[str, tuple[str, ...]]
"""Column -> label of each query, in the order of the examples."""

MEDIUM, WARM = 1, 6
"""Fewest earlier searches of a ``medium`` and of a ``warm`` user; below is ``cold``."""

HEAD_SHARE = 0.5
"""Share of the training choices that ``head`` items hold together."""


def query_groups(
    examples: Sequence[Example], counts: Mapping[str, int], kinds: Mapping[str, str] | None = None
) -> Groups:
    """Label every test query.

    * ``history``: ``cold`` (no earlier search), ``medium`` (1 to 5) or ``warm`` (6 or more), by the history of the
      context, which is cut to the newest ``context.max_events``.
    * ``target``: ``head`` where the target is one of the most chosen items that together hold half of all training
      choices, else ``tail``.
    * ``query_kind``: from ``kinds``, only where given.

    Args:
        examples: test examples.
        counts: item_id -> times chosen by training users; a missing item was never chosen.
        kinds: search_id -> kind of query, e.g. of the simulated shop; ``unknown`` for a search that it lacks.

    Source: CRS figure 3 (groups by number of past queries; its limits are not given); details: this project.
    """
    head = head_items(counts)
    groups: Groups = {
        "history": tuple(_history_group(len(e.context.history)) for e in examples),
        "target": tuple("head" if e.target in head else "tail" for e in examples),
    }
    if kinds is not None:
        groups["query_kind"] = tuple(kinds.get(e.context.search_id, "unknown") for e in examples)
    return groups


def _history_group(searches: int) -> str:
    return "cold" if searches < MEDIUM else "medium" if searches < WARM else "warm"


def head_items(counts: Mapping[str, int], share: float = HEAD_SHARE) -> frozenset[str]:
    """The fewest items that hold ``share`` of all choices; equal counts go by item id.

    >>> sorted(head_items({"a": 5, "b": 3, "c": 1, "d": 1}))
    ['a']
    >>> head_items({})
    frozenset()
    """
    enough = share * sum(counts.values())
    head: list[str] = []
    held = 0
    for item in sorted(counts, key=lambda i: (-counts[i], i)):
        if held >= enough:
            break
        held += counts[item]
        head.append(item)
    return frozenset(head)
