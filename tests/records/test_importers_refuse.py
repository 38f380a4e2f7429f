"""Every file of every importer: a broken line is named with its place and a right row, and nothing is written."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from crsearch.records.importers import IMPORTERS
from tests.records import test_importer_amazon2023 as amazon2023
from tests.records import test_importer_completejourney as completejourney
from tests.records import test_importer_esci as esci
from tests.records import test_importer_hem as hem
from tests.records import test_importer_jdsearch as jdsearch
from tests.records import test_importer_kuaisar as kuaisar
from tests.records import test_importer_kuaisearch as kuaisearch
from tests.records import test_importer_tables as tables
from tests.records import test_importer_wands as wands

SOURCES: list[tuple[str, Callable[[Path], Path], list[str]]] = [
    ("amazon2023", amazon2023.write, ["All_Beauty.jsonl.gz", "meta_All_Beauty.jsonl"]),
    (
        "completejourney",
        completejourney.write,
        ["transactions_sample.csv.gz", "products.csv.gz", "demographics.csv.gz"],
    ),
    (
        "esci",
        lambda folder: esci.write_published(folder, esci.EXAMPLES, esci.PRODUCTS),
        ["shopping_queries_dataset_examples.csv", "shopping_queries_dataset_products.csv"],
    ),
    ("hem", hem.write_prepared, ["items.jsonl.gz", "interactions.csv.gz"]),
    ("hem", hem.write_public, ["reviews_Beauty.json.gz", "meta_Beauty.json.gz"]),
    ("jdsearch", jdsearch.write, ["user_behavior_data.txt", "product_meta_data.txt"]),
    ("kuaisar", kuaisar.write, ["src_inter.csv", "item_features.csv", "user_features.csv", "rec_inter.csv"]),
    (
        "kuaisearch",
        lambda folder: kuaisearch.write(folder, kuaisearch.published()),
        [f"{name}.jsonl" for name in ("items", "users", "recall", "rank", "relevance")],
    ),
    ("tables", tables.write, ["products.csv", "customers.jsonl", "log.csv"]),
    ("wands", wands.write, ["query.csv", "product.csv", "label.csv"]),
]
CASES = [(source, write, name) for source, write, names in SOURCES for name in names]


def test_every_importer_is_here():
    assert {source for source, *_ in SOURCES} == IMPORTERS.keys()


@pytest.mark.parametrize(("source", "write", "name"), CASES, ids=[f"{case[0]}-{case[2]}" for case in CASES])
@pytest.mark.parametrize("broken", [b"{not, a, row", b"\xff\xfe"], ids=["another-form", "not-utf-8"])
def test_a_line_that_cannot_be_read_is_refused(crsearch, tmp_path, source, write, name, broken):
    logs = tmp_path / "logs"
    logs.mkdir()
    write(logs)
    whole = (gzip.decompress if name.endswith(".gz") else bytes)((logs / name).read_bytes())
    lines = len(whole.rstrip(b"\n").splitlines())
    text = whole.rstrip(b"\n") + b"\n" + broken + b"\n"
    (logs / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    done = crsearch("import", source, logs, tmp_path / "out", "--unknown-items", "drop")
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"{name}:{lines + 1}" in done.stderr, done.stderr
    assert "a right row: {" in done.stderr
    assert not (tmp_path / "out").exists()
