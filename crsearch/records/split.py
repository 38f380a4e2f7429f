"""Who trains and who tests, and which search of a user is the example.

Source: CRS §4.1 ("split by user"); a deterministic hash of the user id, so that new data
never moves a user (details: this project). Leave-one-out: Kang and McAuley (SASRec), ICDM 2018.
"""

from collections import defaultdict
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


FEWEST_CHOICES = 3
"""Leave-one-out: a user with fewer choices has none left to train on, so all of them train."""


def choose_targets(searches: Iterable[Search], split: SplitConfig, catalogue: Catalogue) -> Targets:
    """The examples of every user, among the searches whose target is in the catalogue.

    Split by user: the last of them. Leave-one-out: all of them; the last is test, the one before valid, the others
    train, and all train where there are fewer than ``FEWEST_CHOICES``.

    Args:
        searches: in the order of each user's events, oldest first; users may be interleaved.
        split: mode and shares of the parts.
        catalogue: the items that may be a target.

    Returns:
        No entry for users who chose no item of the catalogue; for the others one, or one per choice.
    """
    known = set(catalogue.ids)
    choices: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for search in searches:
        target = search.target
        if target is not None and target in known:
            choices[search.user_id].append((search.search_id, target))
    if split.mode == "user":
        return {found[-1][0]: (found[-1][1], part_of(user_id, split)) for user_id, found in choices.items()}
    return {
        search_id: (target, _part_of_choice(number, len(found)))
        for found in choices.values()
        for number, (search_id, target) in enumerate(found)
    }


def _part_of_choice(number: int, choices: int) -> Part:
    """The part of a user's choice, numbered from 0.

    >>> [_part_of_choice(n, 4) for n in range(4)], _part_of_choice(1, 2)
    (['train', 'train', 'valid', 'test'], 'train')
    """
    if choices < FEWEST_CHOICES or number < choices - 2:
        return "train"
    return "test" if number == choices - 1 else "valid"
