"""A process of its own that changes a catalogue: ``python changing.py RUN POINT``; it dies at the named point."""

import dataclasses
import os
import resource
import signal
import sys
from pathlib import Path

from crsearch.errors import StorageError
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
    if point == "full-disk":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
    try:
        for n in range(3):
            store.add([dataclasses.replace(first.catalogue[n], item_id=f"{point}-{n}")])
    except StorageError as e:
        sys.exit(2 if "no room to write" in str(e) else 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
