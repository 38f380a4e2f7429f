"""Who trains and who tests, and which search of a user is the example.

Source: CRS §4.1 ("split by user"); a deterministic hash of the user id, so that new data
never moves a user (details: this project).
"""

from collections.abc import Iterable
from hashlib import sha256

from crsearch.config import SplitConfig
from crsearch.records.store import Catalogue
from crsearch.records.types import Part, Search

Targets = dict[str, tuple[str, Part]]
"""search_id -> (target item_id, part)."""


def part_of(user_id: str, split: SplitConfig) -> Part:
    """The part a user belongs to, from the user id alone.

    The first 8 bytes of sha256(user_id) are read as a fraction u of 1: test if u < test,
    valid if u < test + valid, else train. A larger share only adds users to a part.

    >>> part_of("u17", SplitConfig(test=0.1, valid=0.05))
    'train'
    """
    fraction = int.from_bytes(sha256(user_id.encode()).digest()[:8], "big") / 2**64
    if fraction < split.test:
        return "test"
    return "valid" if fraction < split.test + split.valid else "train"


def choose_targets(searches: Iterable[Search], split: SplitConfig, catalogue: Catalogue) -> Targets:
    """The example of every user: the last search whose target is in the catalogue.

    Args:
        searches: in the order of each user's events, oldest first; users may be interleaved.
        split: shares of the parts.
        catalogue: the items that may be a target.

    Returns:
        One entry per user who chose at least one item of the catalogue; the others have none.
    """
    known = set(catalogue.ids)
    last: dict[str, tuple[str, str]] = {}
    for search in searches:
        target = search.target
        if target is not None and target in known:
            last[search.user_id] = (search.search_id, target)
    return {search_id: (target, part_of(user_id, split)) for user_id, (search_id, target) in last.items()}
