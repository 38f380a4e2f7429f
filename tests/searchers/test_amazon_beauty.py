"""The popularity lines on real purchases; needs the folder of shared data."""

import csv
import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from crsearch.config import SplitConfig
from crsearch.evaluate.evaluation import evaluate
from crsearch.records.split import choose_targets
from crsearch.records.store import Catalogue, Dataset
from crsearch.records.types import Item, Search, User
from crsearch.searchers.popularity import PopularityInQuerySearcher, PopularitySearcher, training_counts

FOLDER = Path(os.environ.get("CRSEARCH_SHARED", "")) / "data" / "amazon-beauty"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("CRSEARCH_SHARED" not in os.environ, reason="set CRSEARCH_SHARED to the folder of shared data"),
]


def json_lines(name: str) -> Iterator[dict]:
    with gzip.open(FOLDER / name, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


@pytest.fixture(scope="module")
def beauty() -> Dataset:
    items = [
        Item(item_id=i["asin"], title=i["title"] or "?", brand=i["brand"], category=tuple(i["categories"][0]))
        for i in json_lines("items.jsonl.gz")
    ]
    query_of = {q["asin"]: q["queries"][0] for q in json_lines("queries_hem.jsonl.gz") if q["queries"]}
    with gzip.open(FOLDER / "interactions.csv.gz", "rt", encoding="utf-8") as rows:
        searches = [
            Search(
                search_id=f"{row['user_id']}-{row['seq_no']}",
                user_id=row["user_id"],
                time=int(row["seq_no"]),
                query=query_of.get(row["asin"], ""),
                bought=(row["asin"],),
            )
            for row in csv.DictReader(rows)
        ]
    catalogue = Catalogue(items)
    targets = choose_targets(searches, SplitConfig(test=0.1, valid=0.05), catalogue)
    users = {s.user_id: User(user_id=s.user_id) for s in searches}
    return Dataset(catalogue, users, tuple(searches), targets)


def test_the_popularity_lines_are_those_measured_for_the_data_set(beauty):
    counts = training_counts(beauty)
    examples = beauty.examples("test", max_events=1_000)
    rows = {}
    for searcher in (
        PopularitySearcher(beauty.catalogue, counts),
        PopularityInQuerySearcher(beauty.catalogue, counts),
        PopularityInQuerySearcher(beauty.catalogue, counts, brand_bonus=3.0),
    ):
        evaluation = evaluate(searcher, examples, beauty.catalogue.ids, exclude_history=True)
        rows[searcher.name] = {metric: round(v["mean"], 3) for metric, v in evaluation.metrics().items()}
    # other test users than in the measurement: 0.015, 0.301 / 0.171 and 0.352 / 0.201, standard error about 0.011
    assert rows["popularity"]["HR@10"] == pytest.approx(0.015, abs=0.01)
    assert rows["popularity-in-query"]["HR@10"] == pytest.approx(0.301, abs=0.03)
    assert rows["popularity-in-query"]["NDCG@10"] == pytest.approx(0.171, abs=0.02)
    assert rows["popularity-in-query-brand"]["HR@10"] == pytest.approx(0.352, abs=0.03)
    assert rows["popularity-in-query-brand"]["NDCG@10"] == pytest.approx(0.201, abs=0.02)
