"""A process of its own that changes a catalogue: ``python changing.py RUN POINT``; it dies at the named point."""

import dataclasses
import os
import sys
from pathlib import Path

from crsearch.serve import catalogue as module
from crsearch.serve.catalogue import CatalogueStore


def die(*_: object) -> None:
    os._exit(9)


def main(run: Path, point: str) -> None:
    """Add items to the catalogue of a run."""
    store = CatalogueStore(run)
    if point == "very-first-swap":
        module.write_atomic = die
        store.current()
    if point == "before-rename":
        module.seal = die
    elif point == "between-rename-and-swap":
        module.write_atomic = die
    first = store.load("v000001")
    for n in range(3):
        store.add([dataclasses.replace(first.catalogue[n], item_id=f"{point}-{n}")])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
