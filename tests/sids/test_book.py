"""The book of semantic IDs: numbering of duplicates, tokens, new items, files."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crsearch.config import SidConfig
from crsearch.encoders import LsaEncoder
from crsearch.errors import SidError
from crsearch.records.types import Item
from crsearch.sids import SidBook, build_sids, item_text, quality, random_sids, sids_from_embeddings

TOY = SidConfig(codes=2)


def book_of(values, config=TOY, ids=None) -> SidBook:
    embeddings_ND = np.array(values, dtype=np.float32)[:, None]
    return sids_from_embeddings(ids or [f"i{n}" for n in range(len(values))], embeddings_ND, config, seed=0)


def shop(num: int) -> list[Item]:
    rng = np.random.default_rng(0)
    return [
        Item(item_id=f"i{n}", title=f"w{rng.integers(9)} x{rng.integers(9)}", brand=f"b{rng.integers(4)}")
        for n in range(num)
    ]


def test_two_equal_items_share_the_layers_and_differ_in_the_last_code():
    book = book_of([0, 0, 10])
    assert [book.sid(row) for row in range(3)] == [
        "<a_0><b_0><c_0><d_0>", "<a_0><b_0><c_0><d_1>", "<a_1><b_0><c_0><d_0>",
    ]  # fmt: skip


def test_duplicates_are_numbered_by_item_id_wherever_they_stand():
    book = book_of([5, 0, 5, 5], ids=["c", "z", "a", "b"])
    assert book.codes_NL[:, -1].tolist() == [2, 0, 0, 1]


@settings(max_examples=50)
@given(
    values=st.lists(st.integers(0, 12), min_size=1, max_size=30),
    shuffle=st.randoms(use_true_random=False),
    seed=st.integers(0, 5),
)
def test_permuting_the_catalogue_permutes_the_sids_only(values, shuffle, seed):
    order = list(range(len(values)))
    shuffle.shuffle(order)
    ids = [f"i{n}" for n in range(len(values))]
    embeddings_ND = np.array(values, dtype=np.float32)[:, None]
    book = sids_from_embeddings(ids, embeddings_ND, SidConfig(codes=3), seed)
    permuted = sids_from_embeddings([ids[n] for n in order], embeddings_ND[order], SidConfig(codes=3), seed)
    assert [permuted.sid(row) for row in range(len(order))] == [book.sid(n) for n in order]
    assert permuted.vocabulary() == book.vocabulary()


@settings(max_examples=50)
@given(values=st.lists(st.integers(0, 12), min_size=1, max_size=30))
def test_sid_tokens_and_rows_go_round(values):
    book = book_of(values, SidConfig(codes=3))
    vocabulary = book.vocabulary()
    assert len(set(vocabulary)) == len(vocabulary) == sum(book.layer_sizes)
    for row in range(len(book)):
        assert book.row_of(book.sid(row)) == row
        assert "".join(book.pieces(row)) == book.sid(row)
        assert tuple(vocabulary[token] for token in book.tokens_NL[row]) == book.pieces(row)


@pytest.mark.parametrize("sid", ["", "<a_0>", "<a_9><b_0><c_0><d_0>", "<a_0><b_0><c_0><d_0> ", "<a_00><b_0><c_0><d_0>"])
def test_an_unknown_sid_has_no_row(sid):
    assert book_of([0, 0, 10]).row_of(sid) is None


def test_vocabulary_lists_the_layers_in_order_and_keeps_spare_codes_for_new_items():
    book = book_of([0, 0, 10], SidConfig(codes=2, spare_duplicates=3))
    assert book.vocabulary() == [
        "<a_0>", "<a_1>", "<b_0>", "<c_0>", "<d_0>", "<d_1>", "<d_2>", "<d_3>", "<d_4>",
    ]  # fmt: skip
    assert book_of([0, 0, 10]).dedup_codes == 2 + 8
    assert book_of([0, 0, 10], SidConfig(codes=2, max_duplicates=4)).dedup_codes == 4


def test_a_bucket_above_the_cap_is_refused_with_the_remedy():
    with pytest.raises(
        SidError, match=r"4 of 5 items share all 3 codes <a_0><b_0><c_0> \(first: \'i0\' and \'i1\'\)"
    ) as e:
        book_of([0, 0, 0, 0, 9], SidConfig(codes=2, max_duplicates=3))
    assert "Raise sids.codes (now 2) or sids.layers (now 3)" in str(e.value)


def test_new_items_get_the_nearest_codes_and_the_next_free_last_code():
    book = book_of([0, 0, 10])
    codes_NL = book.assign(np.array([[0.4], [10.0], [0.0], [-3.0]]))
    assert codes_NL.tolist() == [[0, 0, 0, 2], [1, 0, 0, 1], [0, 0, 0, 3], [0, 0, 0, 4]]


def test_a_last_code_freed_below_one_in_use_is_not_given_again():
    book = book_of([0, 0, 0, 10])
    without_i1 = SidBook(
        item_ids=("i0", "i2", "i3"), codes_NL=book.codes_NL[[0, 2, 3]], codebooks=book.codebooks,
        dedup_codes=book.dedup_codes, built_rows=3,
    )  # fmt: skip
    assert without_i1.assign(np.array([[0.0]])).tolist() == [[0, 0, 0, 3]]


def test_a_full_bucket_refuses_a_new_item():
    book = book_of([0, 0, 10], SidConfig(codes=2, spare_duplicates=1))
    grown = book.append(["new"], np.array([[0.0]]))
    with pytest.raises(SidError, match="sid_space_full: <a_0><b_0><c_0> has no deduplication code left"):
        grown.assign(np.array([[0.0]]))


def test_appending_keeps_every_sid_and_the_fingerprint():
    book = book_of([0, 0, 10])
    grown = book.append(["x", "y"], np.array([[9.0], [0.0]]))
    assert [grown.sid(row) for row in range(3)] == [book.sid(row) for row in range(3)]
    assert grown.item_ids == ("i0", "i1", "i2", "x", "y")
    assert (grown.sid(3), grown.sid(4)) == ("<a_1><b_0><c_0><d_1>", "<a_0><b_0><c_0><d_2>")
    assert grown.fingerprint() == book.fingerprint()
    with pytest.raises(SidError, match="'i0' stands twice"):
        book.append(["i0"], np.array([[9.0]]))


def test_vectors_of_another_encoder_are_refused():
    with pytest.raises(SidError, match="embeddings of 2 numbers for codebooks of 1"):
        book_of([0, 1]).assign(np.zeros((1, 2)))


def test_fingerprint_tells_codes_items_and_vocabulary_apart():
    books = [
        book_of([0, 0, 10]),
        book_of([0, 10, 10]),
        book_of([0, 0, 11]),
        book_of([0, 0, 10], ids=["x", "y", "z"]),
        book_of([0, 0, 10], SidConfig(codes=2, spare_duplicates=9)),
    ]
    assert len({book.fingerprint() for book in books}) == len(books)
    assert book_of([0, 0, 10]).fingerprint() == books[0].fingerprint()


def test_saved_book_comes_back_with_its_files_as_promised(tmp_path):
    items = shop(40)
    texts = [item_text(item) for item in items]
    book = build_sids(items, LsaEncoder.fit(texts, dim=8, seed=0), SidConfig(codes=6), seed=0).append(
        ['手机"壳'], np.zeros((1, 8), dtype=np.float32)
    )
    book.save(tmp_path)
    loaded = SidBook.load(tmp_path)
    assert (loaded.item_ids, loaded.warnings, loaded.dedup_codes) == (book.item_ids, book.warnings, book.dedup_codes)
    assert (loaded.codes_NL == book.codes_NL).all()
    assert all((a == b).all() for a, b in zip(loaded.codebooks, book.codebooks, strict=True))
    assert loaded.fingerprint() == book.fingerprint()
    assert json.loads((tmp_path / "sid2item.json").read_text(encoding="utf-8"))[book.sid(40)] == '手机"壳'
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "codebooks.safetensors",
        "items.parquet",
        "sid2item.json",
    ]


def test_files_of_two_books_are_refused(tmp_path):
    book_of([0, 0, 10]).save(tmp_path / "one")
    book_of([0, 10, 10]).save(tmp_path / "two")
    (tmp_path / "two" / "items.parquet").replace(tmp_path / "one" / "items.parquet")
    with pytest.raises(SidError, match="different books"):
        SidBook.load(tmp_path / "one")


@pytest.mark.parametrize("file", ["codebooks.safetensors", "items.parquet"])
def test_missing_or_broken_files_are_named(tmp_path, file):
    book_of([0, 0, 10]).save(tmp_path)
    (tmp_path / file).write_bytes(b"not what it was")
    with pytest.raises(SidError, match=re.escape(str(tmp_path))):
        SidBook.load(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(SidError, match="build them first"):
        SidBook.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item_ids": ("i0", "i0", "i2")}, "stands twice"),
        ({"item_ids": ("i0", "i1")}, "do not belong together"),
        (
            {"codes_NL": np.array([[0, 0, 0, 0], [0, 0, 0, 1], [2, 0, 0, 0]])},
            "'i2': code 2 in layer 1, which has 2 codes",
        ),
        ({"codes_NL": np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])}, "'i1' and 'i2' share the SID <a_1>"),
    ],
)
def test_a_book_that_breaks_its_own_rules_cannot_be_made(change, message):
    book = book_of([0, 0, 10])
    whole = {
        "item_ids": book.item_ids, "codes_NL": book.codes_NL, "codebooks": book.codebooks,
        "dedup_codes": book.dedup_codes, "built_rows": book.built_rows,
    }  # fmt: skip
    with pytest.raises(SidError, match=message):
        SidBook(**{**whole, **change})


@pytest.mark.parametrize("num", [1, 3, 200])
def test_catalogues_of_any_size_get_unique_sids(num):
    items = [Item(item_id=f"i{n}", title="same title") for n in range(num)]
    encoder = LsaEncoder.fit([item_text(item) for item in items], dim=8, seed=0)
    book = build_sids(items, encoder, SidConfig(), seed=0)
    assert len({book.sid(row) for row in range(num)}) == num
    assert len(book.warnings) == 3


def test_a_hundred_thousand_copies_are_refused_at_once():
    with pytest.raises(SidError, match="100000 of 100000 items share all 3 codes"):
        sids_from_embeddings([f"i{n}" for n in range(100_000)], np.ones((100_000, 4)), SidConfig(), seed=0)


def test_an_empty_catalogue_is_refused():
    with pytest.raises(SidError, match="the catalogue is empty"):
        random_sids([], SidConfig(), seed=0)
    with pytest.raises(SidError, match="the catalogue is empty"):
        sids_from_embeddings([], np.empty((0, 4)), SidConfig(), seed=0)


def test_random_sids_have_the_shape_of_real_ones_and_follow_item_and_seed_only():
    items = shop(60)
    book = random_sids(items, SidConfig(codes=6), seed=3)
    again = random_sids(items[::-1], SidConfig(codes=6), seed=3)
    assert book.layer_sizes[:-1] == (6, 6, 6)
    assert {item: book.sid(row) for row, item in enumerate(book.item_ids)} == {
        item: again.sid(row) for row, item in enumerate(again.item_ids)
    }
    assert book.fingerprint() != random_sids(items, SidConfig(codes=6), seed=4).fingerprint()


def test_random_sids_can_be_stored_but_take_no_new_items(tmp_path):
    book = random_sids(shop(20), SidConfig(codes=6), seed=0)
    book.save(tmp_path)
    assert SidBook.load(tmp_path).fingerprint() == book.fingerprint()
    with pytest.raises(SidError, match="codebooks of 0"):
        book.assign(np.zeros((1, 8)))
    assert quality(book)["items"] == 20


def test_random_is_a_quantiser_that_never_looks_at_the_vectors():
    items, config = shop(30), SidConfig(codes=6, quantizer="random")
    vectors_ND = np.random.default_rng(0).normal(size=(len(items), 8))
    book = sids_from_embeddings([i.item_id for i in items], vectors_ND, config, seed=3)
    assert book.fingerprint() == random_sids(items, config, seed=3).fingerprint()
    assert "reconstruction_error" not in quality(book, vectors_ND)["layers"][0]
