from pathlib import Path
from tempfile import TemporaryDirectory

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import Success, nDCG

from crsearch.errors import DataError
from crsearch.evaluate.evaluation import evaluate_run_file
from crsearch.evaluate.trec import read_qrels, read_run, write_qrels, write_run
from crsearch.records.types import RankedList

IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
ORACLE = {"HR@1": Success @ 1, "HR@5": Success @ 5, "HR@10": Success @ 10, "NDCG@5": nDCG @ 5, "NDCG@10": nDCG @ 10}


def answer(search_id, item_ids, scores=None):
    return RankedList(search_id=search_id, item_ids=tuple(item_ids), scores=tuple(scores or [0.0] * len(item_ids)))


def oracle(run, qrels):
    got = ir_measures.calc_aggregate(
        ORACLE.values(), ir_measures.read_trec_qrels(str(qrels)), ir_measures.read_trec_run(str(run))
    )
    return {name: got[measure] for name, measure in ORACLE.items()}


@given(st.dictionaries(IDS, IDS, max_size=5))
def test_qrels_come_back_as_they_were(targets):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "qrels.trec"
        write_qrels(path, targets)
        assert read_qrels(path) == targets


@given(st.dictionaries(IDS, st.lists(IDS, unique=True, min_size=1, max_size=12), max_size=4), IDS)
def test_a_run_comes_back_as_it_was_whatever_the_scores(lists, system):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run.trec"
        write_run(path, [answer(s, items) for s, items in lists.items()], system)
        assert read_run(path) == {s: tuple(items) for s, items in lists.items()}


def test_scores_in_a_run_file_fall_strictly_with_the_rank(tmp_path):
    write_run(tmp_path / "bm25.trec", [answer("s1", "abc", [1.0, 1.0, 5.0]), answer("s2", "b", [0.0])], "bm25")
    assert (tmp_path / "bm25.trec").read_text().splitlines() == [
        "s1 Q0 a 1 3 bm25",
        "s1 Q0 b 2 2 bm25",
        "s1 Q0 c 3 1 bm25",
        "s2 Q0 b 1 1 bm25",
    ]


@pytest.mark.parametrize("seed", range(3))
def test_ir_measures_gets_our_digits_from_our_files(tmp_path, seed):
    rng = np.random.default_rng(seed)
    items = [f"i{n}" for n in range(30)]
    targets = {f"s{n}": str(rng.choice(items)) for n in range(60)}
    lists = [answer(s, rng.permutation(items)[: rng.integers(0, 13)].tolist()) for s in targets]
    write_qrels(tmp_path / "qrels.trec", targets)
    write_run(tmp_path / "crs.trec", lists, "crs")
    ours = evaluate_run_file(tmp_path / "crs.trec", tmp_path / "qrels.trec").metrics(bootstrap=100)
    theirs = oracle(tmp_path / "crs.trec", tmp_path / "qrels.trec")
    assert {m: v["mean"] for m, v in ours.items()} == pytest.approx(theirs, abs=1e-12)
    assert 0 < theirs["HR@10"] < 1


@pytest.mark.parametrize("seed", range(3))
def test_a_run_of_another_tool_is_read_as_ir_measures_reads_it_ties_included(tmp_path, seed):
    rng = np.random.default_rng(seed)
    items = ["a", "B", "b", "Z", "é", "手机", "i10", "i9", "_", "~"]
    targets = {f"s{n}": str(rng.choice(items)) for n in range(60)}
    lines = [
        f"{s} Q0 {item} 1 {rng.integers(0, 4) / 2} other\n" for s in targets for item in rng.permutation(items)[:8]
    ]
    (tmp_path / "other.trec").write_text("".join(lines), encoding="utf-8")
    write_qrels(tmp_path / "qrels.trec", targets)
    ours = evaluate_run_file(tmp_path / "other.trec", tmp_path / "qrels.trec").metrics(bootstrap=100)
    theirs = oracle(tmp_path / "other.trec", tmp_path / "qrels.trec")
    assert {m: v["mean"] for m, v in ours.items()} == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("s1 Q0 a 1 0.5", r"run.trec:2: 5 fields, expected 6: search_id Q0 item_id rank score system"),
        ("s1 Q0 b 1 high x", r"run.trec:2: score 'high' is not a number"),
        ("s1 Q0 b 1 nan x", r"run.trec:2: score 'nan' is not a number"),
        ("s1 Q0 a 2 0.5 x", r"run.trec:2: item 'a' is twice in the list of search 's1'"),
    ],
)
def test_a_broken_run_line_is_named(tmp_path, line, message):
    (tmp_path / "run.trec").write_text(f"s1 Q0 a 1 1 x\n{line}\n")
    with pytest.raises(DataError, match=message):
        read_run(tmp_path / "run.trec")


def test_lines_of_relevance_0_are_passed_over(tmp_path):
    (tmp_path / "qrels.trec").write_text("s1 0 a 0\n\ns1 0 b 1\ns2 0 a -1\n")
    assert read_qrels(tmp_path / "qrels.trec") == {"s1": "b"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("s1 0 b 1", r"qrels.trec:2: search 's1' has two relevant items, 'a' and 'b'"),
        ("s2 0 b yes", r"qrels.trec:2: relevance 'yes' is not a whole number"),
        ("s2 0 b", r"qrels.trec:2: 3 fields, expected 4"),
    ],
)
def test_a_broken_qrels_line_is_named(tmp_path, line, message):
    (tmp_path / "qrels.trec").write_text(f"s1 0 a 1\n{line}\n")
    with pytest.raises(DataError, match=message):
        read_qrels(tmp_path / "qrels.trec")


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone.trec: no such file"):
        read_run(tmp_path / "gone.trec")
    (tmp_path / "run.trec").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"run.trec: not UTF-8 text"):
        read_run(tmp_path / "run.trec")


def test_a_file_that_begins_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "run.trec").write_text("s1 Q0 a 1 1 x\n", encoding="utf-8-sig")
    assert read_run(tmp_path / "run.trec") == {"s1": ("a",)}


def test_an_empty_id_cannot_be_written(tmp_path):
    with pytest.raises(DataError, match="an empty id"):
        write_qrels(tmp_path / "qrels.trec", {"s1": ""})
    assert not (tmp_path / "qrels.trec").exists()
