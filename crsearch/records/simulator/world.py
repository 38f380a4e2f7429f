"""The shop itself: its items and the law by which its users choose. Everything follows from (config, seed).

A user wants a brand r, a price level p and a style s. In a category they choose item i with probability

    P(i | p, r, s)  ~  exp( w_brand [brand_i = r] - 0.6 w_price |level_i - p| + w_style [style_i = s] + 1.2 appeal_i )

* style: of a seasonal department, that of the season at the place and time of the search; else a fixed table of
  gender and age;
* brand: of a main product (phone), the user's favourite of the department; of an accessory (phone case), the brand
  of the main product of that department clicked last, if there is one, else the favourite;
* level: a trait of the user, its prior depends on age; skipped items are drawn ~ exp(min(|level_i - p|, 2)), so that
  clicked against skipped tells the level;
* category of an accessory: the one for the main product clicked last in the department, with chance 0.93.

Axes beside those of the project: P price levels, R brands of a department, S styles, Y departments, M mains of a
department, E events of histories, I items of a category. Departments are numbered, as are categories (see ``World``).

Source: details: this project.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from crsearch.config import SimulateConfig
from crsearch.errors import DataError
from crsearch.records.simulator.words import LANGUAGES, LEVELS, STEMS, STYLES, Language, brand_names
from crsearch.records.store import Catalogue
from crsearch.records.types import Item, Time

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LEVEL_WEIGHT = 0.6
"""Price weight per level of distance, times ``sharpness[1]``."""
APPEAL_WEIGHT = 0.6
"""Weight of an item's general appeal, which is the same for all users."""
SKIP_CONTRAST = 1.0
"""How strongly skipped items are off the wanted level."""
FOLLOW = 0.93
"""Chance that an accessory is for the main product clicked last in its department."""
LEVEL_GIVEN_AGE = np.array(
    [[0.45, 0.35, 0.15, 0.05], [0.20, 0.45, 0.25, 0.10], [0.10, 0.25, 0.45, 0.20], [0.05, 0.20, 0.35, 0.40]]
)
"""Prior of the price level by age band."""
PRICE_FACTORS = (0.55, 1.0, 1.9, 3.6)
"""Price of a level over the typical price; with +-12 % within a level, levels never overlap."""
ACCESSORY_PRICE = 0.12
"""Price of an accessory over that of a main product."""

QueryKind = Literal["full", "bare", "brand"]


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a query text says; -1 = it does not say."""

    kind: QueryKind
    department: int
    category: int
    brand: int


@dataclass(frozen=True, kw_only=True)
class World:
    """Items, tastes and choice probabilities of one shop.

    A category has the number ``6 y + stem`` (main) or ``6 y + 3 + stem`` (accessory) in department y.
    """

    config: SimulateConfig
    seed: int
    language: Language
    brands: tuple[tuple[str, ...], ...]
    """Names by department and brand number."""
    brand_share_R: Floats
    """Prior of a user's favourite brand, the same in every department."""
    taste_GA: Ints
    """Style wanted by gender and age, in departments without seasons."""
    category_N: Ints
    brand_N: Ints
    level_N: Ints
    style_N: Ints
    price_N: Floats
    appeal_N: Floats
    """General appeal, 0..1."""
    choice_NPRS: Floats = field(repr=False)
    """P(item | its category is searched, level, brand, style); the extra last style means "style unknown"."""

    @property
    def departments(self) -> int:
        """Number of departments."""
        return self.config.departments

    @cached_property
    def item_ids(self) -> tuple[str, ...]:
        """Item ids in row order; they say nothing about the item."""
        return tuple(f"i{row:05d}" for row in range(self.config.items))

    @cached_property
    def catalogue(self) -> Catalogue:
        """The items, without sales, which are counted from what the users do."""
        return Catalogue(self._item(row) for row in range(self.config.items))

    def _item(self, row: int) -> Item:
        category, brand = int(self.category_N[row]), int(self.brand_N[row])
        level, style = int(self.level_N[row]), int(self.style_N[row])
        y = category // (2 * STEMS)
        return Item(
            item_id=self.item_ids[row],
            title=self.title(category, brand, level, style),
            brand=self.brands[y][brand],
            category=(self.language.departments[y].name, self.category_name(category)),
            price=float(self.price_N[row]),
            attributes={"level": self.language.levels[level], "style": self.language.styles(y)[style]},
        )

    @cached_property
    def rows_of_category(self) -> tuple[Ints, ...]:
        """Catalogue rows by category number."""
        return tuple(np.flatnonzero(self.category_N == c) for c in range(2 * STEMS * self.departments))

    @cached_property
    def climate_of(self) -> Mapping[str, Literal["north", "south", "tropics"]]:
        """City -> climate."""
        return dict(self.language.cities)

    @cached_property
    def level_share_P(self) -> Floats:
        """Prior of the price level when the age is not known (ages are equally frequent)."""
        return LEVEL_GIVEN_AGE.mean(axis=0)

    @cached_property
    def meanings(self) -> Mapping[str, Meaning]:
        """Every query of the shop -> what it says."""
        out: dict[str, Meaning] = {}
        for y in range(self.departments):
            for synonym in (False, True):
                out[self.language.bare(y, synonym)] = Meaning("bare", y, -1, -1)
                for category in range(2 * STEMS * y, 2 * STEMS * (y + 1)):
                    out[self.category_name(category, synonym)] = Meaning("full", y, category, -1)
            for r, name in enumerate(self.brands[y]):
                out[name] = Meaning("brand", y, -1, r)
        return out

    def meaning(self, query: str) -> Meaning:
        """What a query says.

        Raises:
            DataError: not a query of this shop.
        """
        try:
            return self.meanings[query]
        except KeyError:
            raise DataError(
                f"query {query!r} is none of the {len(self.meanings)} queries of the simulated shop: ask for "
                f"a category ({self.category_name(0)!r}), an accessory ({self.language.bare(0)!r}) or a brand"
            ) from None

    @cached_property
    def _category_names(self) -> dict[bool, list[str]]:
        """Names of all categories, without and with synonyms."""
        stems, count = 2 * STEMS, 2 * STEMS * self.departments
        return {
            synonym: [
                self.language.category(c // stems, c % STEMS, self.is_accessory(c), synonym) for c in range(count)
            ]
            for synonym in (False, True)
        }

    def category_name(self, category: int, synonym: bool = False) -> str:
        """Words of a category."""
        return self._category_names[synonym][category]

    def is_accessory(self, category: int) -> bool:
        """Whether a category is an accessory of a main product."""
        return category % (2 * STEMS) >= STEMS

    def wanted_style(self, department: int, time: Time | None, place: str | None, profile: Mapping[str, str]) -> int:
        """Style wanted in a department, ``STYLES`` where the facts to know it are missing.

        Args:
            time: of the search; only a calendar time has a season.
            place: of the search; where it is not known, the user's city counts.
            profile: ``gender``, ``age`` and ``city`` of the user, as far as known.
        """
        if self.language.departments[department].seasonal:
            climate = self.climate_of.get(place or profile.get("city", ""))
            if climate is None or not isinstance(time, datetime):
                return STYLES
            return self.language.season(climate, time.month)[0]
        gender, age = self.trait("genders", profile.get("gender")), self.trait("ages", profile.get("age"))
        return STYLES if gender is None or age is None else int(self.taste_GA[gender, age])

    def trait(self, kind: Literal["genders", "ages"], value: str | None) -> int | None:
        """Number of a profile value, ``None`` where it is missing or none of the shop's."""
        values = self.language.genders if kind == "genders" else self.language.ages
        return values.index(value) if value in values else None

    def title(self, category: int, brand: int, level: int, style: int) -> str:
        """Words of an item: category, brand, price level, style."""
        y = category // (2 * STEMS)
        words = (self.category_name(category), self.brands[y][brand])
        return " ".join((*words, self.language.levels[level], self.language.styles(y)[style]))


def build_world(config: SimulateConfig, seed: int) -> World:
    """Make the shop of a seed: brands, tastes, items, choice probabilities.

    Raises:
        ConfigError: more brands than the language has names for.
    """
    language = LANGUAGES[config.language]
    rng = np.random.default_rng([seed, 0])
    names = brand_names(language, config.departments * config.brands, rng)
    share_R = 1 / (np.arange(config.brands) + 8.0)  # the first brands are somewhat more popular
    taste_GA = np.stack([rng.permutation(STYLES) for _ in language.genders])
    fields_N4 = _place_items(config, rng)
    category_N, brand_N, level_N, style_N = fields_N4.T.copy()
    appeal_N = rng.random(config.items)
    return World(
        config=config,
        seed=seed,
        language=language,
        brands=tuple(names[y * config.brands : (y + 1) * config.brands] for y in range(config.departments)),
        brand_share_R=share_R / share_R.sum(),
        taste_GA=taste_GA,
        category_N=category_N,
        brand_N=brand_N,
        level_N=level_N,
        style_N=style_N,
        price_N=_prices(language, category_N, level_N, rng),
        appeal_N=appeal_N,
        choice_NPRS=choice_table(config, fields_N4, appeal_N),
    )


def choice_table(config: SimulateConfig, fields_N4: Ints, appeal_N: Floats) -> Floats:
    """P(item | its category is searched, wanted level, brand, style) for every wish; module docstring.

    Args:
        fields_N4: category, brand, level and style of each item.

    Returns:
        [N, P, R, S + 1]; the items of a category sum to 1. The last style is the mean over styles: the
        probability where nothing is known about the wanted style.
    """
    category_N, brand_N, level_N, style_N = fields_N4.T
    w_brand, w_price, w_style = config.sharpness
    distance_NP = np.abs(level_N[:, None] - np.arange(LEVELS))
    is_brand_NR = brand_N[:, None] == np.arange(config.brands)
    is_style_NS = style_N[:, None] == np.arange(STYLES)
    utility_NPRS = (
        -LEVEL_WEIGHT * w_price * distance_NP[:, :, None, None]
        + w_brand * is_brand_NR[:, None, :, None]
        + w_style * is_style_NS[:, None, None, :]
        + APPEAL_WEIGHT * appeal_N[:, None, None, None]
    )
    best_CPRS = np.full((category_N.max() + 1, *utility_NPRS.shape[1:]), -np.inf)
    np.maximum.at(best_CPRS, category_N, utility_NPRS)
    weight_NPRS = np.exp(utility_NPRS - best_CPRS[category_N])
    total_CPRS = np.zeros_like(best_CPRS)
    np.add.at(total_CPRS, category_N, weight_NPRS)
    choice_NPRS = weight_NPRS / total_CPRS[category_N]
    return np.concatenate([choice_NPRS, choice_NPRS.mean(axis=-1, keepdims=True)], axis=-1)


def _place_items(config: SimulateConfig, rng: np.random.Generator) -> Ints:
    """Category, brand, level and style of each item, all different, in random order; every category has items."""
    num_categories = 2 * STEMS * config.departments
    variants = LEVELS * STYLES
    # Pairs (category, brand) round by round over all categories, each round with another brand per category.
    brands_CR = np.stack([rng.permutation(config.brands) for _ in range(num_categories)])
    pairs = [(int(c), int(brands_CR[c, r])) for r in range(config.brands) for c in rng.permutation(num_categories)]
    widest = min(len(pairs), config.items)
    tightest = max(num_categories, -(-config.items // variants))
    used = round(widest + config.look_alikes * (tightest - widest))
    fields = []
    for i, (category, brand) in enumerate(pairs[:used]):
        here = config.items // used + (i < config.items % used)
        for variant in rng.choice(variants, here, replace=False):
            fields.append((category, brand, int(variant) // STYLES, int(variant) % STYLES))
    return rng.permutation(np.array(fields, dtype=np.int64))


def _prices(language: Language, category_N: Ints, level_N: Ints, rng: np.random.Generator) -> Floats:
    """Price of each item, to one decimal; the levels of a category never overlap."""
    typical_N = np.array([language.departments[c // (2 * STEMS)].price for c in category_N])
    part_N = np.where(category_N % (2 * STEMS) >= STEMS, ACCESSORY_PRICE, 1.0)
    factor_N = np.array(PRICE_FACTORS)[level_N] * rng.uniform(0.88, 1.12, len(level_N))
    return np.round(typical_N * part_N * factor_N, 1)
