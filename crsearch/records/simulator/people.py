"""The users of the simulated shop and what they do: profiles, histories, the search that is the example.

Every user has a random stream of their own, so a shop with more users starts with the same users.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from crsearch.records.simulator.words import LEVELS, STEMS, STYLES
from crsearch.records.simulator.world import FOLLOW, LEVEL_GIVEN_AGE, SKIP_CONTRAST, Floats, Ints, World
from crsearch.records.types import Search, User

ACCESSORY = 0.6
"""Chance that the last search is for an accessory."""
HISTORY_ACCESSORY = 0.4
"""Chance that an earlier search is for an accessory."""
DISTRACTOR = 0.4
"""Chance of a search in another department just before the last one."""
TRAVEL = 0.15
"""Chance that a session is in another city than the user's."""
BUY = 0.5
"""Chance that a clicked item is bought."""
BARE = 2 / 3
"""Share of bare words among ambiguous accessory queries; the others are a brand only."""
FAVOURITES = 3
"""Departments that a user searches in."""

_START = datetime(2025, 1, 1, tzinfo=UTC)
_MINUTES_OF_YEAR = 365 * 24 * 60
_DAY = 24 * 60


@dataclass(frozen=True, slots=True)
class _Wish:
    """What decides a choice."""

    stem: int
    brand: int
    level: int
    style: int


class _Shopper:
    """One user while their searches are drawn, oldest first."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.rng = rng = np.random.default_rng([world.seed, 1, number])
        language = world.language
        gender, age = rng.integers(len(language.genders)), rng.integers(len(language.ages))
        self.home = language.cities[rng.integers(len(language.cities))][0]
        profile = {"gender": language.genders[gender], "age": language.ages[age], "city": self.home}
        self.user = User(user_id=f"u{number:05d}", profile=profile)
        self.level = int(rng.choice(LEVELS, p=LEVEL_GIVEN_AGE[age]))
        share_R = world.brand_share_R
        self.favourite_Y = [int(rng.choice(len(share_R), p=share_R)) for _ in range(world.departments)]
        self.last_main: dict[int, tuple[int, int]] = {}  # department -> (stem, brand) of the main item clicked last
        self.searches: list[Search] = []

    def wish(self, department: int, accessory: bool, time: datetime, place: str) -> _Wish:
        """What the user wants, from all that the context says about them."""
        stem, brand = int(self.rng.integers(STEMS)), self.favourite_Y[department]
        if accessory and department in self.last_main:
            last_stem, brand = self.last_main[department]
            stem = last_stem if self.rng.random() < FOLLOW else stem
        style = self.world.wanted_style(department, time, place, self.user.profile)
        return _Wish(stem, brand, self.level, style)

    def whim(self) -> _Wish:
        """What a user wants whose choice has nothing to do with the context (``history_weight``)."""
        rng, world = self.rng, self.world
        return _Wish(
            int(rng.integers(STEMS)),
            int(rng.choice(len(world.brand_share_R), p=world.brand_share_R)),
            int(rng.choice(LEVELS, p=world.level_share_P)),
            int(rng.integers(STYLES)),
        )

    def search(self, department: int, accessory: bool, wish: _Wish, time: datetime, place: str, clicks: bool) -> None:
        """Type a query, look at some items, click one of them or none."""
        rng, world = self.rng, self.world
        category = 2 * STEMS * department + STEMS * accessory + wish.stem
        query = self._query(department, accessory, category, wish)
        rows = world.rows_of_category[category]
        choice = world.choice_NPRS[rows, wish.level, wish.brand, wish.style]
        picked = int(rng.choice(len(rows), p=choice)) if clicks else None
        shown = self._skips(world.level_N[rows], picked, number=int(rng.integers(3)) + (not clicks))
        if picked is not None:
            shown.insert(int(rng.integers(len(shown) + 1)), picked)
            if not accessory:
                self.last_main[department] = (wish.stem, int(world.brand_N[rows[picked]]))
        clicked = () if picked is None else (world.item_ids[rows[picked]],)
        self.searches.append(
            Search(
                search_id=f"{self.user.user_id}-{len(self.searches)}",
                user_id=self.user.user_id,
                time=time,
                place=place,
                query=query,
                shown=tuple(world.item_ids[rows[i]] for i in shown),
                clicked=clicked,
                bought=clicked if rng.random() < BUY else (),
            )
        )

    def _query(self, department: int, accessory: bool, category: int, wish: _Wish) -> str:
        rng, config = self.rng, self.world.config
        ambiguous, bare, synonym = rng.random(3) < (config.ambiguity, BARE, config.vocabulary_gap)
        if accessory and ambiguous and not bare:
            return self.world.brands[department][wish.brand]
        if accessory and ambiguous:
            return self.world.language.bare(department, bool(synonym))
        return self.world.category_name(category, bool(synonym))

    def _skips(self, level_I: Ints, picked: int | None, number: int) -> list[int]:
        """Items shown and not clicked, one after the other without repeats: ~ exp(min(|level - wanted|, 2))."""
        weight_I = skip_weight(level_I, self.level)
        order_I = self.rng.exponential(size=len(level_I)) / weight_I  # smallest first = drawn one after the other
        drawn = [int(i) for i in np.argsort(order_I, kind="stable")[: number + 1] if i != picked]
        return drawn[:number]


def skip_weight(levels: Ints, wanted: Ints | int) -> Floats:
    """Relative chance that an item of a level is shown and skipped by a user who wants another.

    >>> skip_weight(np.arange(4), 0).round(2).tolist()
    [1.0, 2.72, 7.39, 7.39]
    """
    return np.exp(SKIP_CONTRAST * np.minimum(np.abs(levels - wanted), 2))


def live(world: World, number: int) -> tuple[User, Sequence[Search]]:
    """A user and all their searches, oldest first; the last one has a choice and is the example.

    The search before the last one (or before a distractor from another department) is for a main product of
    the department of the last one: the session. Whether the user clicked there is another matter.

    Args:
        number: of the user; with the world's seed it decides everything.
    """
    shopper = _Shopper(world, number)
    rng, config = shopper.rng, world.config
    cold = rng.random() < config.cold_users
    length = 0 if cold else int(rng.integers(config.min_history, config.max_history + 1))
    plan = _plan(rng, world.departments, length)
    session = min(length, 1 + (length > 1 and plan[-2][0] != plan[-1][0]))
    for place, time, (department, accessory) in zip(
        _places(shopper, length, session), _times(rng, length, session), plan, strict=True
    ):
        last = len(shopper.searches) == length
        from_context = not last or rng.random() < config.history_weight
        wish = shopper.wish(department, accessory, time, place) if from_context else shopper.whim()
        clicks = last or bool(rng.random() >= config.no_click)
        shopper.search(department, accessory, wish, time, place, clicks)
    return shopper.user, shopper.searches


def _plan(rng: np.random.Generator, departments: int, length: int) -> list[tuple[int, bool]]:
    """(department, accessory) of each search, the last one included."""
    liked = rng.permutation(departments)[:FAVOURITES]
    home, others = int(liked[0]), liked[1:]
    session = [(home, False)]
    if length > 1 and len(others) and rng.random() < DISTRACTOR:
        session.append((int(rng.choice(others)), bool(rng.random() < HISTORY_ACCESSORY)))
    earlier = [
        (int(rng.choice(liked)), bool(rng.random() < HISTORY_ACCESSORY)) for _ in range(max(0, length - len(session)))
    ]
    return [*earlier, *session[:length], (home, bool(rng.random() < ACCESSORY))]


def _places(shopper: _Shopper, length: int, session: int) -> list[str]:
    """City of each search; a session has one."""

    def place() -> str:
        cities = shopper.world.language.cities
        return cities[shopper.rng.integers(len(cities))][0] if shopper.rng.random() < TRAVEL else shopper.home

    earlier = [place() for _ in range(length - session)]
    return [*earlier, *[place()] * (session + 1)]


def _times(rng: np.random.Generator, length: int, session: int) -> list[datetime]:
    """Time of each search, strictly rising: minutes apart in the session, days apart before it."""
    now = _START + timedelta(minutes=int(rng.integers(_MINUTES_OF_YEAR)))
    gaps = [int(rng.integers(_DAY // 2, 14 * _DAY)) for _ in range(length - session)]
    gaps += [int(rng.integers(2, 30)) for _ in range(session)]
    before = np.cumsum(gaps[::-1])[::-1]
    return [*(now - timedelta(minutes=int(m)) for m in before), now]
