"""Loading and saving without the progress bars of transformers: the terminal belongs to the caller."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_bars() -> Iterator[None]:
    """A block in which transformers draws no progress bar ("Loading weights", "Writing model shards")."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
