"""Is what the thoughts state true? Measured apart from the ranking, where a simulated shop knows the truth."""

import json
from collections.abc import Sequence

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
