"""Write what was measured into docs/promises.md.

crsearch bench serve runs/demo --json > serve.json
crsearch verify runs/demo --json > verify.json
python docs/make_promises.py serve.json verify.json
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from blocks import replace_block

PAGE = Path(__file__).parent / "promises.md"


def main(files: Sequence[str]) -> None:
    """Replace the block of figures by those of some files."""
    blocks = []
    for file in files:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
        blocks.append("\n".join(block(found)))
    page = replace_block(PAGE.read_text(encoding="utf-8"), "figures", "\n".join(blocks) + "\n")
    PAGE.write_text(page, encoding="utf-8")


def block(found: dict[str, Any]) -> Iterator[str]:
    """A table with the machine above it."""
    machine = found["machine"]
    where = f"{machine['date']}, {machine['cores']} cores of {machine['cpu']}, load before {machine['load']}"
    yield f"`crsearch {command(found['bench'])} runs/demo`, {where}:"
    yield ""
    yield "| | what | measured | floor | | how |"
    yield "|---|---|---|---|---|---|"
    for f in found["figures"]:
        sign = {"lower": "≤", "higher": "≥"}[f["better"]]
        floor = "" if f["floor"] is None else f"{sign} {f['floor']:g} {f['unit']}"
        value = "–" if f["value"] is None else f"{f['value']:,.4g} {f['unit']}"
        held = {None: "", True: "holds", False: "**does not hold**"}[f["holds"]]
        yield f"| {f['key']} | {f['what']} | {value} | {floor} | {held} | {f['how']} |"
    yield ""


def command(bench: str) -> str:
    """The command that measured."""
    return bench if bench == "verify" else f"bench {bench}"


if __name__ == "__main__":
    main(sys.argv[1:])
