import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from crsearch.errors import ConfigError, DataError
from crsearch.evaluate.evaluation import (
    Evaluation,
    compare,
    evaluate,
    evaluate_run_file,
    metrics_over_seeds,
)
from crsearch.evaluate.groups import save_groups
from crsearch.evaluate.trec import write_qrels
from crsearch.records.types import Context, Example, RankedList, Search

ITEMS = tuple(f"i{n:02}" for n in range(30))


class TableSearcher:
    """Answers each search from a table, cut to k."""

    def __init__(self, answers: Mapping[str, Sequence[str]], name: str = "table") -> None:
        self.name = name
        self.answers = answers
        self.asked: list[tuple[int, int]] = []

    def search(self, contexts: Sequence[Context], k: int) -> list[RankedList]:
        self.asked.append((len(contexts), k))
        return [self.answer(c.search_id, self.answers[c.search_id][:k]) for c in contexts]

    def answer(self, search_id: str, items: Sequence[str]) -> RankedList:
        scores = tuple(-float(n) for n in range(len(items)))
        return RankedList(search_id=search_id, item_ids=tuple(items), scores=scores, thought=f"about {search_id}")


def example(search_id, target, clicked=()):
    history = (Search(search_id=f"{search_id}-before", user_id="u", time=0, query="q", clicked=tuple(clicked)),)
    context = Context(search_id=search_id, user_id="u", query="q", history=history)
    return Example(context=context, target=target, part="test")


def shop(seed=0, queries=50):
    """Test examples and lists in which some targets are missing."""
    rng = np.random.default_rng(seed)
    examples = [example(f"s{n}", str(rng.choice(ITEMS))) for n in range(queries)]
    return examples, {e.context.search_id: rng.permutation(ITEMS).tolist() for e in examples}


def test_ranks_are_the_places_of_the_targets():
    examples = [example("s1", "i00"), example("s2", "i03"), example("s3", "i12")]
    got = evaluate(TableSearcher(dict.fromkeys(("s1", "s2", "s3"), ITEMS)), examples, ITEMS)
    assert got.ranks_B.tolist() == [1, 4, 0]
    assert [len(r.item_ids) for r in got.lists] == [10, 10, 10]
    assert got.lists[0].thought == "about s1"
    assert got.invalid_items == 0
    row = got.metrics(bootstrap=100)
    assert list(row) == ["HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10"]
    assert row["HR@5"]["mean"] == pytest.approx(2 / 3)
    assert row["NDCG@10"]["mean"] == pytest.approx((1 + 1 / math.log2(5)) / 3)


def test_an_empty_list_is_a_miss():
    got = evaluate(TableSearcher({"s1": ()}), [example("s1", "i00")], ITEMS)
    assert got.ranks_B.tolist() == [0]
    assert got.metrics(bootstrap=100)["HR@10"] == {"mean": 0.0, "low": 0.0, "high": 0.0}


def test_a_repeated_item_keeps_its_first_place_and_an_unknown_one_holds_its_place():
    answers = {"s1": ["i05", "i05", "ghost", "i00", "i05", "ghost"]}
    got = evaluate(TableSearcher(answers), [example("s1", "i00")], ITEMS)
    assert got.lists[0].item_ids == ("i05", "ghost", "i00")
    assert got.lists[0].scores == (0.0, -2.0, -3.0)
    assert got.ranks_B.tolist() == [3]
    assert got.invalid_items == 4  # two repeats of i05, ghost and its repeat


def test_what_comes_after_k_does_not_count():
    class Generous(TableSearcher):
        def search(self, contexts, k):
            return super().search(contexts, k + 5)

    got = evaluate(Generous({"s1": (*ITEMS[:10], "ghost", "i20")}), [example("s1", "i20")], ITEMS)
    assert got.ranks_B.tolist() == [0]
    assert got.invalid_items == 0


def test_items_chosen_before_are_left_out_on_request_and_the_list_stays_full():
    examples = [example("s1", "i12", clicked=ITEMS[:6]), example("s2", "i03")]
    searcher = TableSearcher(dict.fromkeys(("s1", "s2"), ITEMS))
    got = evaluate(searcher, examples, ITEMS, exclude_history=True)
    assert got.lists[0].item_ids == ITEMS[6:16]
    assert got.lists[1].item_ids == ITEMS[:10]
    assert got.ranks_B.tolist() == [7, 4]
    assert searcher.asked == [(2, 16)]


def test_a_target_chosen_before_is_a_miss_when_such_items_are_left_out():
    searcher = TableSearcher({"s1": ITEMS})
    chosen_before = [example("s1", "i00", clicked=["i00"])]
    assert evaluate(searcher, chosen_before, ITEMS, exclude_history=True).ranks_B.tolist() == [0]
    assert evaluate(searcher, chosen_before, ITEMS).ranks_B.tolist() == [1]


def test_batches_change_nothing_and_progress_counts_queries():
    examples, answers = shop()
    seen = []
    whole = evaluate(TableSearcher(answers), examples, ITEMS, batch=1_000)
    parts = evaluate(TableSearcher(answers), examples, ITEMS, batch=20, progress=lambda *at: seen.append(at))
    assert parts.lists == whole.lists
    assert seen == [(20, 50), (40, 50), (50, 50)]


def test_latency_is_the_time_of_the_batch_shared_by_its_queries():
    class Slow(TableSearcher):
        def search(self, contexts, k):
            time.sleep(0.02)
            return super().search(contexts, k)

    examples, answers = shop(queries=4)
    latency_ms_B = evaluate(Slow(answers), examples, ITEMS, batch=2).latency_ms_B
    assert latency_ms_B[0] == latency_ms_B[1] >= 10
    assert latency_ms_B[2] == latency_ms_B[3] >= 10


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "the test part is empty"),
        ([example("s1", "ghost")], r"search 's1': its target 'ghost' is not in the catalogue \(30 items\)"),
        ([example("s1", "i00"), example("s1", "i01")], "search 's1' is twice"),
    ],
)
def test_examples_that_cannot_be_judged_are_refused_before_the_searcher_is_asked(examples, message):
    searcher = TableSearcher({"s1": ITEMS})
    with pytest.raises(DataError, match=message):
        evaluate(searcher, examples, ITEMS)
    assert searcher.asked == []


def test_lists_shorter_than_the_metrics_are_refused():
    with pytest.raises(ConfigError, match="k = 5: the metrics look at the first 10"):
        evaluate(TableSearcher({"s1": ITEMS}), [example("s1", "i00")], ITEMS, k=5)


def test_a_searcher_that_answers_other_queries_is_refused():
    class Shuffled(TableSearcher):
        def search(self, contexts, k):
            return super().search(contexts, k)[::-1]

    class Forgetful(TableSearcher):
        def search(self, contexts, k):
            return super().search(contexts, k)[:-1]

    class Scoreless(TableSearcher):
        def answer(self, search_id, items):
            return RankedList(search_id=search_id, item_ids=tuple(items), scores=())

    examples, answers = shop(queries=2)
    for kind, message in (
        (Shuffled, r"\['s0'\] asked, \['s1'\] answered"),
        (Forgetful, r"was asked 2 searches and answered 1; .* \['s1'\] asked, \[\] answered"),
        (Scoreless, "10 items but 0 scores"),
    ):
        with pytest.raises(DataError, match=message):
            evaluate(kind(answers), examples, ITEMS)


def test_an_evaluation_comes_back_from_its_files(tmp_path):
    examples, answers = shop()
    answers["s0"] = []
    groups = {"history": tuple("cold" if n % 2 else "warm" for n in range(50))}
    saved = evaluate(TableSearcher(answers, "crs"), examples, ITEMS, groups=groups)
    saved.save(tmp_path)
    loaded = Evaluation.load(tmp_path, "crs")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["crs.parquet", "crs.trec"]
    assert loaded.targets == saved.targets
    assert [r.item_ids for r in loaded.lists] == [r.item_ids for r in saved.lists]
    assert loaded.groups == saved.groups
    assert loaded.latency_ms_B.tolist() == saved.latency_ms_B.tolist()
    assert loaded.metrics() == saved.metrics()
    assert pl.read_parquet(tmp_path / "crs.parquet").columns == [
        "search_id", "target", "rank", "invalid", "latency_ms", "read_tokens", "thought_tokens", "group_history",
    ]  # fmt: skip


def test_tokens_of_the_answers_come_back_and_are_none_for_files_that_know_none(tmp_path):
    class Reader(TableSearcher):
        def search(self, contexts, k):
            found = super().search(contexts, k)
            return [replace(a, read_tokens=100 + n, thought_tokens=30) for n, a in enumerate(found)]

    examples, answers = shop()
    evaluate(Reader(answers, "crs"), examples, ITEMS).save(tmp_path)
    assert Evaluation.load(tmp_path, "crs").mean_tokens() == {"read_tokens": 124.5, "thought_tokens": 30.0}
    old = pl.read_parquet(tmp_path / "crs.parquet").drop("read_tokens", "thought_tokens")
    old.write_parquet(tmp_path / "crs.parquet")
    assert Evaluation.load(tmp_path, "crs").mean_tokens() == {"read_tokens": None, "thought_tokens": None}


def test_labels_of_the_folder_stand_for_those_that_were_saved(tmp_path):
    """So a system that was measured before there was a grouping has it too."""
    examples, answers = shop()
    labels = tuple("cold" if n % 2 else "warm" for n in range(50))
    evaluate(TableSearcher(answers, "crs"), examples, ITEMS, groups={"history": labels}).save(tmp_path)
    newer = {"history": labels, "target": labels[::-1]}
    save_groups(tmp_path, [e.context.search_id for e in examples][::-1], {c: own[::-1] for c, own in newer.items()})
    assert Evaluation.load(tmp_path, "crs").groups == newer
    save_groups(tmp_path, ["other"], {"history": ("cold",)})
    assert Evaluation.load(tmp_path, "crs").groups == {"history": labels}


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    examples, answers = shop()
    evaluate(TableSearcher(answers, "crs"), examples, ITEMS).save(tmp_path)
    trec = tmp_path / "crs.trec"
    trec.write_text("".join(line for line in trec.read_text().splitlines(True) if " 10 crs" not in line))
    with pytest.raises(DataError, match=r"its ranks are not those of crs\.trec"):
        Evaluation.load(tmp_path, "crs")
    with pytest.raises(DataError, match=r"bm25\.parquet: no such file"):
        Evaluation.load(tmp_path, "bm25")


def test_a_run_file_gets_the_metrics_of_the_searcher_that_wrote_it(tmp_path):
    examples, answers = shop()
    answers["s0"] = []
    own = evaluate(TableSearcher(answers, "crs"), examples, ITEMS)
    own.save(tmp_path)
    write_qrels(tmp_path / "qrels.trec", own.targets)
    got = evaluate_run_file(tmp_path / "crs.trec", tmp_path / "qrels.trec", ITEMS[:-1])
    assert got.searcher == "crs"
    assert got.metrics() == own.metrics()
    assert got.invalid_items == sum(ITEMS[-1] in r.item_ids for r in own.lists) > 0
    assert np.isnan(got.latency_ms_B).all()


def test_a_run_file_of_another_split_is_refused(tmp_path):
    examples, answers = shop()
    evaluate(TableSearcher(answers, "crs"), examples, ITEMS).save(tmp_path)
    write_qrels(tmp_path / "qrels.trec", {"s1": "i00"})
    with pytest.raises(DataError, match=r"crs\.trec: search 's0' is not in the qrels \(49 such searches of 50"):
        evaluate_run_file(tmp_path / "crs.trec", tmp_path / "qrels.trec")
    write_qrels(tmp_path / "none.trec", {})
    with pytest.raises(DataError, match="nothing to evaluate"):
        evaluate_run_file(tmp_path / "crs.trec", tmp_path / "none.trec")


def test_a_run_over_another_catalogue_is_refused(tmp_path):
    """Half of the items may be made up; one more may not."""
    write_qrels(tmp_path / "qrels.trec", {"s1": "a"})
    (tmp_path / "tool.trec").write_text("".join(f"s1 Q0 {item} {n} {9 - n} tool\n" for n, item in enumerate("abcd", 1)))
    half = evaluate_run_file(tmp_path / "tool.trec", tmp_path / "qrels.trec", ["a", "b"])
    assert half.invalid_items == 2
    with pytest.raises(
        DataError, match=r"tool\.trec: 3 of 4 listed items \(first: 'b'\) are not among the 1 of the cat"
    ):
        evaluate_run_file(tmp_path / "tool.trec", tmp_path / "qrels.trec", ["a"])
    (tmp_path / "empty.trec").write_text("")
    assert evaluate_run_file(tmp_path / "empty.trec", tmp_path / "qrels.trec", ["a"]).ranks_B.tolist() == [0]


def test_groups_part_the_queries():
    examples, answers = shop()
    labels = tuple("cold" if n < 20 else "warm" for n in range(50))
    whole = evaluate(TableSearcher(answers), examples, ITEMS, groups={"history": labels})
    groups = whole.by_group("history")
    assert {label: len(group) for label, group in groups.items()} == {"cold": 20, "warm": 30}
    assert [*groups["cold"].ranks_B, *groups["warm"].ranks_B] == whole.ranks_B.tolist()
    mean = {label: group.metrics()["NDCG@10"]["mean"] for label, group in groups.items()}
    assert 0.4 * mean["cold"] + 0.6 * mean["warm"] == pytest.approx(whole.metrics()["NDCG@10"]["mean"])
    with pytest.raises(DataError, match="no group column 'age'; there are: history"):
        whole.by_group("age")
    with pytest.raises(DataError, match="group column 'history' has 49 labels for 50 queries"):
        evaluate(TableSearcher(answers), examples, ITEMS, groups={"history": labels[1:]})


def better(answers, examples, share, seed=0):
    """The same lists with the target put first in a share of them."""
    rng = np.random.default_rng(seed)
    return {
        e.context.search_id: [e.target, *answers[e.context.search_id]]
        if rng.random() < share
        else answers[e.context.search_id]
        for e in examples
    }


def test_a_comparison_goes_query_by_query_whatever_their_order():
    examples, answers = shop(queries=200)
    plain = evaluate(TableSearcher(answers, "bm25"), examples[::-1], ITEMS)
    same = evaluate(TableSearcher(answers, "tfidf"), examples, ITEMS)
    crs = evaluate(TableSearcher(better(answers, examples, 0.3), "crs"), examples, ITEMS)
    to_plain, to_same = compare(crs, [plain, same], resamples=2_000)
    assert (to_plain.system, to_plain.other, to_same.other) == ("crs", "bm25", "tfidf")
    assert to_plain.difference == to_same.difference
    gain = crs.metrics()["NDCG@10"]["mean"] - plain.metrics()["NDCG@10"]["mean"]
    assert to_plain.difference["mean"] == pytest.approx(gain)
    assert 0 < to_plain.difference["low"] < gain < to_plain.difference["high"]
    assert to_plain.p == pytest.approx(1 / 2_001)
    assert to_plain.p_holm == pytest.approx(2 / 2_001)
    (nothing,) = compare(same, [plain])
    assert (nothing.p, nothing.difference["low"], nothing.difference["high"]) == (1.0, 0.0, 0.0)


def test_systems_tested_on_different_queries_are_not_compared():
    examples, answers = shop()
    crs = evaluate(TableSearcher(answers, "crs"), examples, ITEMS)
    fewer = evaluate(TableSearcher(answers, "bm25"), examples[1:], ITEMS)
    with pytest.raises(DataError, match=r"crs \(50 queries\) and bm25 \(49 queries\) .* search 's0' is in crs only"):
        compare(crs, [fewer])
    other = evaluate(TableSearcher(answers, "bm25"), [example("s0", "i29"), *examples[1:]], ITEMS)
    with pytest.raises(DataError, match=r"the target of search 's0' is '.*' in crs and 'i29' in bm25"):
        compare(crs, [other])
    with pytest.raises(DataError, match="two systems to compare with are called 'crs'"):
        compare(crs, [crs, crs])
    with pytest.raises(ConfigError, match="metric 'MRR': there are HR@1"):
        compare(crs, [], metric="MRR")


def test_the_row_of_several_seeds_is_the_mean_over_them():
    examples, answers = shop(queries=200)
    seeds = [
        evaluate(TableSearcher(better(answers, examples, 0.2, seed), "crs"), examples[:: 1 - 2 * (seed % 2)], ITEMS)
        for seed in range(3)
    ]
    row = metrics_over_seeds(seeds)
    for metric, interval in row.items():
        assert interval["mean"] == pytest.approx(np.mean([e.metrics()[metric]["mean"] for e in seeds]))
    assert metrics_over_seeds(seeds[:1]) == seeds[0].metrics()
    with pytest.raises(DataError, match="no evaluation"):
        metrics_over_seeds([])
