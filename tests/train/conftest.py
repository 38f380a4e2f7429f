"""A shop of 40 items with a tiny model: real objects, small enough for seconds."""

import pytest

from crsearch.config import load_settings
from crsearch.context.prompts import Prompts
from crsearch.context.serialiser import Serialiser
from crsearch.encoders import build_encoder
from crsearch.models.bundle import build_model
from crsearch.records.simulator import simulate
from crsearch.runs import RunDirectory
from crsearch.sids import build_sids, item_text
from crsearch.train.answer import catalogue_trie
from crsearch.train.examples import TreeBuilder
from crsearch.train.supervised import Workbench

TINY = [
    "simulate.users=60", "simulate.items=40", "simulate.departments=1", "simulate.brands=2", "sids.codes=6",
    "model.width=32", "model.layers=2", "model.heads=2", "model.kv_heads=1", "model.head_dim=16",
    "model.feed_forward=64", "model.vocabulary=500", "model.precision=fp32", "rl.prompts=4", "rl.group_size=4",
    "rl.beam=5", "decode.think_tokens=12",
]  # fmt: skip


class Shop:
    """Everything a training test needs."""

    def __init__(self, *overrides: str) -> None:
        self.settings = load_settings(None, [*TINY, *overrides], {"preset": "smoke"})
        shop = simulate(self.settings.simulate, self.settings.split, 0)
        self.truth, self.dataset = shop.truth, shop.dataset
        self.examples = self.dataset.examples("train", 10)
        catalogue = self.dataset.catalogue
        encoder = build_encoder(self.settings.encoder, [item_text(i) for i in catalogue], 0)
        self.sids = build_sids(catalogue, encoder, self.settings.sids, 0)
        plain = Serialiser(catalogue, self.sids, self.settings.context)
        thoughts = shop.truth["thought_map"].to_list()
        texts = [*plain.texts([e.context for e in self.examples]), *thoughts]
        self.bundle = build_model(self.settings, texts, self.sids)
        serialiser = Serialiser(catalogue, self.sids, self.settings.context, self.bundle.tokenizer)
        self.builder = TreeBuilder(self.bundle, Prompts(serialiser, self.bundle.tokenizer))
        self.trie = catalogue_trie(self.bundle)
        self.thoughts = dict(zip(shop.truth["search_id"], thoughts, strict=True))

    def bench(self, run: RunDirectory, **rl: object) -> Workbench:
        """A workbench, with settings of ``rl`` replaced."""
        settings = self.settings.model_copy(update={"rl": self.settings.rl.model_copy(update=rl)})
        return Workbench(run=run, settings=settings, builder=self.builder)

    def traces(self, count: int):
        """Examples with the tokens of the analyst's thoughts."""
        return [(e, self.builder.prompts.thought(self.thoughts[e.context.search_id])) for e in self.examples[:count]]


@pytest.fixture
def shop():
    return Shop()


@pytest.fixture
def run(tmp_path):
    with RunDirectory(tmp_path / "run") as directory:
        yield directory
