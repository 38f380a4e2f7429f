"""Helpers for the generative baselines on the shop of ``conftest.py``."""

import copy
from dataclasses import replace

from crsearch.config import OptimConfig
from crsearch.decode.trie import Trie
from crsearch.records.types import Context, Example
from crsearch.searchers.generative import GenerativeSearcher
from crsearch.train.generative import identifiers

FAST = OptimConfig(lr_matrix=0.04, lr=2e-2, warmup=0.0)


KEPT: list[tuple[object, dict]] = []


def as_new(request):
    """The shop of ``conftest.py``, built once and given back its first weights: building one takes longer than a test.

    For a fixture ``shop`` that overrides the one of ``conftest.py``.
    """
    if not KEPT:
        shop = request.getfixturevalue("shop")
        KEPT.append((shop, copy.deepcopy(shop.bundle.model.state_dict())))
    shop, start = KEPT[0]
    shop.bundle.model.load_state_dict(start)
    return shop


def settings_with(shop, **sections):
    """Settings with some of ``baselines`` replaced, e.g. ``genre={"batch": 4}``; checked like any settings."""
    given = shop.settings.baselines.model_dump()
    for section, values in sections.items():
        given[section] = given[section] | values if isinstance(values, dict) else values
    baselines = type(shop.settings.baselines).model_validate(given)
    return shop.settings.model_copy(update={"baselines": baselines})


def with_baselines(shop, run, **sections):
    """A workbench with settings of ``baselines`` replaced."""
    return replace(shop.bench(run), settings=settings_with(shop, **sections))


def one_query_per_item(shop):
    """An example per item whose query is its title: a task that query-only systems can solve."""
    return [
        Example(
            context=Context(search_id=f"q{n}", user_id=f"u{n}", query=item.title), target=item.item_id, part="train"
        )
        for n, item in enumerate(shop.dataset.catalogue)
    ]


def hits_at_1(shop, examples, *, settings=None, name="genre", builder=None):
    """HR@1 by the searcher that reports use."""
    builder = builder or shop.builder
    builder.bundle.model.eval()
    trie = Trie.from_tokens(identifiers(builder, settings or shop.settings, name))
    searcher = GenerativeSearcher(builder, trie, shop.settings.decode, name=name)
    lists = searcher.search([e.context for e in examples], 10)
    return sum(found.item_ids[0] == e.target for found, e in zip(lists, examples, strict=True)) / len(examples)
