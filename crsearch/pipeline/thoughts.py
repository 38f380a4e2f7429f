"""Thoughts apart from the ranking: is what they state true, and what are they worth?"""

import json
from collections.abc import Sequence

from crsearch.errors import RunError
from crsearch.pipeline.workspace import Workspace
from crsearch.records.simulator.stated import FIELDS, Lexicon, stated_fields


def thought_accuracy(space: Workspace, systems: Sequence[str]) -> dict[str, dict[str, float]]:
    """Share of test thoughts that state each field of the wanted item right.

    Args:
        systems: measured systems that think.

    Returns:
        system -> ``<field>_supported`` (agrees with what the context supports best, the ``map`` analyst) and
        ``<field>_true`` (agrees with the item that was chosen).
    """
    truth = space.truth
    assert truth is not None, "only a simulated shop knows what is true"
    lexicon = Lexicon.from_catalogue(space.dataset.catalogue)
    known = {row["search_id"]: row for row in truth.iter_rows(named=True)}
    out = {}
    for system in systems:
        file = space.path("traces", "thoughts", f"{system}.json")
        thoughts: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
        stated = {search_id: stated_fields(thought, lexicon) for search_id, thought in thoughts.items()}
        out[system] = {
            f"{field}_{name}": sum(stated[s][field] == known[s][f"{column}_{field}"] for s in stated) / len(stated)
            for field in FIELDS
            for name, column in (("supported", "map"), ("true", "true"))
        }
    return out


def replaced_thoughts(space: Workspace, by: str) -> dict[str, str]:
    """A thought for every test search, other than the one that ``crs`` has.

    Args:
        by: ``empty``; ``shuffled`` = the thought of ``crs`` for another test user, each used once; ``oracle`` = that
            of the simulated shop's analyst who knows the target.

    Raises:
        RunError: ``shuffled``, but ``crs`` has not been measured.
    """
    asked = [e.context.search_id for e in space.examples("test")]
    if by == "empty":
        return dict.fromkeys(asked, "")
    if by == "oracle":
        truth = space.truth
        assert truth is not None, "only a simulated shop has an oracle"
        return dict(zip(truth["search_id"], truth["thought_leak"], strict=True))
    from crsearch.train.trainer import stream

    file = space.path("traces", "thoughts", "crs.json")
    if not file.exists():
        raise RunError(f"{file}: missing: measure crs before crs-shuffled-thought")
    own: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    order = sorted(own, key=lambda search_id: stream(space.settings.seed, "shuffled thoughts", search_id))
    return {search_id: own[order[i - 1]] for i, search_id in enumerate(order)}
