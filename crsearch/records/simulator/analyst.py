"""The analyst: reads a context and writes down, in short sentences, what the user wants and why.

    Wants phone case. Clicked phone Kilumo, so Kilumo. Chose premium over basic, so premium.
    For female 25-34, so elegant. Item: phone case Kilumo premium elegant

The kind of item comes first, then fact by fact what supports each wish (a quoted fact turns a look-up over two hops
into two over one), then the item in the words and the order of a title. Three analysts share the frame:

* ``map``: states the most probable value of each field, from the context alone;
* ``noisy``: the same, but each field is wrong with chance ``analyst_noise``, always in the same way: the stem after
  the right one, the brand of another item that the user chose, one price level more, the style after the right one;
* ``leak``: states the fields of the item that was chosen, and looks for facts that agree, as a language model does
  that is shown the answer.

No thought holds an item id or a semantic ID.

Source: CRS §3.2 for distilled reasoning; the form is this project's (measured in its feasibility study).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np

from crsearch.records.simulator.bayes import Beliefs, believe
from crsearch.records.simulator.words import LEVELS, STEMS, STYLES
from crsearch.records.simulator.world import World
from crsearch.records.types import Context

Analyst = Literal["map", "noisy", "leak"]
ANALYSTS: tuple[Analyst, ...] = ("map", "noisy", "leak")


@dataclass(frozen=True, slots=True)
class Stated:
    """The four fields of an item that a thought names, as numbers of the world."""

    category: int
    brand: int
    level: int
    style: int

    @property
    def department(self) -> int:
        """Number of the department."""
        return self.category // (2 * STEMS)


def most_probable(beliefs: Beliefs) -> list[Stated]:
    """The most probable value of each field, one by one; equal ones by number."""
    stem_BM, brand_BR, level_BP, style_BS = beliefs.fields
    category_B = beliefs.department_B * 2 * STEMS + STEMS * beliefs.accessory_B + stem_BM.argmax(axis=1)
    columns = (category_B, brand_BR.argmax(axis=1), level_BP.argmax(axis=1), style_BS.argmax(axis=1))
    return [Stated(*map(int, row)) for row in zip(*columns, strict=True)]


def fields_of(world: World, row: int) -> Stated:
    """The fields of an item of the catalogue."""
    columns = (world.category_N, world.brand_N, world.level_N, world.style_N)
    return Stated(*(int(column[row]) for column in columns))


@dataclass(frozen=True, slots=True)
class Facts:
    """What an analyst can quote from a context, newest first."""

    context: Context
    chosen: list[Stated]
    """Items chosen in the history."""
    compared: list[tuple[int, list[int]]]
    """Of each earlier search with a choice: level of the item chosen last, and the other levels it was chosen over."""
    skipped: list[int]
    """Levels of skipped items."""


def read_facts(world: World, context: Context) -> Facts:
    """Look up what the history shows; nothing where history decides nothing.

    Raises:
        DataError: an item that this shop does not have.
    """
    facts = Facts(context, [], [], [])
    for search in reversed(context.history if world.config.history_weight > 0 else ()):
        chosen = [fields_of(world, world.catalogue.row(i)) for i in reversed(search.chosen)]
        skipped = [int(world.level_N[world.catalogue.row(i)]) for i in search.skipped]
        facts.chosen.extend(chosen)
        facts.skipped.extend(skipped)
        if chosen:
            level = chosen[0].level
            facts.compared.append((level, [other for other in skipped if other != level]))
    return facts


def think(world: World, contexts: Sequence[Context]) -> list[str]:
    """The thoughts of the ``map`` analyst: a function of the contexts alone.

    Raises:
        DataError: a query or an item that this shop does not have.
    """
    stated = most_probable(believe(world, contexts)) if contexts else []
    return [write(world, read_facts(world, c), fields) for c, fields in zip(contexts, stated, strict=True)]


def confuse(world: World, facts: Facts, stated: Stated, rng: np.random.Generator) -> Stated:
    """What the ``noisy`` analyst states instead: each field wrong with chance ``analyst_noise``."""
    stem, brand, level, style = rng.random(4) < world.config.analyst_noise
    first = stated.category // STEMS * STEMS
    return Stated(
        category=first + (stated.category + 1) % STEMS if stem else stated.category,
        brand=_other_brand(facts, stated) if brand else stated.brand,
        level=(stated.level + 1 if stated.level + 1 < LEVELS else stated.level - 1) if level else stated.level,
        style=(stated.style + 1) % STYLES if style else stated.style,
    )


def _other_brand(facts: Facts, stated: Stated) -> int:
    """Another brand of the department: of the item chosen last with one, else the most popular other one."""
    for item in facts.chosen:
        if item.department == stated.department and item.brand != stated.brand:
            return item.brand
    return 0 if stated.brand else 1  # brands are numbered by popularity


def write(world: World, facts: Facts, stated: Stated) -> str:
    """A thought that states these fields, each with a fact of the context that supports it if there is one."""
    frame = world.language.sentences
    sentences = (
        frame.wants.format(category=world.category_name(stated.category)),
        _why_brand(world, facts, stated),
        _why_level(world, facts, stated),
        _why_style(world, facts.context, stated),
        frame.item + frame.gap + world.title(stated.category, stated.brand, stated.level, stated.style),
    )
    return frame.gap.join(sentences)


def _why_brand(world: World, facts: Facts, stated: Stated) -> str:
    """The query names it; else the newest main item with it that was chosen, or any item; else the prior."""
    frame, brand = world.language.sentences, world.brands[stated.department][stated.brand]
    if facts.context.query == brand:
        return frame.asked.format(brand=brand)
    same = [f for f in facts.chosen if (f.department, f.brand) == (stated.department, stated.brand)]
    mains = [f for f in same if not world.is_accessory(f.category)]
    if not same:
        return frame.popular.format(value=brand)
    quoted = world.category_name((mains or same)[0].category)
    return frame.clicked.format(quoted=quoted, quoted_brand=brand, brand=brand)


def _why_level(world: World, facts: Facts, stated: Stated) -> str:
    """A choice of that level, best one over another level; else any choice, a skipped item, the age, the prior."""
    frame, names = world.language.sentences, world.language.levels
    level = names[stated.level]
    if facts.compared:
        chosen, others = min(facts.compared, key=lambda c: (c[0] != stated.level, not c[1]))  # the newest of equals
        if others:
            return frame.chose_over.format(clicked=names[chosen], skipped=names[others[0]], level=level)
        return frame.chose.format(clicked=names[chosen], level=level)
    skipped = [s for s in facts.skipped if s != stated.level]
    if skipped:
        return frame.skipped.format(skipped=names[skipped[0]], level=level)
    age = facts.context.profile.get("age")
    if world.config.history_weight > 0 and age is not None:
        return frame.age.format(age=age, level=level)
    return frame.popular.format(value=level)


def _why_style(world: World, context: Context, stated: Stated) -> str:
    """Season and place, or gender and age; without them the prior."""
    frame, department = world.language.sentences, stated.department
    style = world.language.styles(department)[stated.style]
    wanted = world.wanted_style(department, context.time, context.place, context.profile)
    if world.config.history_weight == 0 or wanted == STYLES:
        return frame.popular.format(value=style)
    if world.language.departments[department].seasonal:
        place = context.place or context.profile["city"]
        assert isinstance(context.time, datetime)  # else the wanted style would not be known
        season = world.language.season(world.climate_of[place], context.time.month)[1]
        return frame.season.format(season=season, place=place, style=style)
    return frame.taste.format(gender=context.profile["gender"], age=context.profile["age"], style=style)
