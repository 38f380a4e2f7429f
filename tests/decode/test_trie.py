"""The trie against sets of prefixes, and its files, changes and errors."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from decode_tiny import catalogues
from hypothesis import given, settings
from hypothesis import strategies as st

from crsearch.decode import Trie
from crsearch.decode.trie import _checked
from crsearch.errors import DataError, SidError

GOLDEN = np.array([[1, 1], [1, 2], [2, 1]])
BIG = 70_000
many = settings(max_examples=60)


def children(tokens_NL: np.ndarray, prefix: tuple[int, ...]) -> list[int]:
    """The slow, obvious way."""
    return sorted({int(t[len(prefix)]) for t in tokens_NL if tuple(t[: len(prefix)]) == prefix})


@pytest.mark.parametrize(("prefix", "allowed"), [((), [1, 2]), ((1,), [1, 2]), ((2,), [1]), ((1, 1), [99])])
def test_allowed_sets_of_the_golden_catalogue(prefix, allowed):
    assert Trie.from_tokens(GOLDEN).allowed(prefix, end_id=99).tolist() == allowed


@pytest.mark.parametrize("prefix", [(3,), (2, 2), (1, 1, 1), (3, 1)])
def test_a_prefix_of_no_item_raises_instead_of_allowing_everything(prefix):
    with pytest.raises(SidError, match="leads to none"):
        Trie.from_tokens(GOLDEN).allowed(prefix)


@given(tokens_NL=catalogues())
@many
def test_allowed_equals_the_set_of_prefixes_and_tokens_come_back_by_row(tokens_NL):
    trie = Trie.from_tokens(tokens_NL)
    assert (trie.tokens() == tokens_NL).all()
    for sid in tokens_NL.tolist():
        for length in range(trie.depth):
            prefix = tuple(sid[:length])
            assert trie.allowed(prefix).tolist() == children(tokens_NL, prefix)


@pytest.mark.parametrize("scale", [1, BIG])  # BIG: ids too wide for one packed sort key
def test_equal_rows_are_named(scale):
    tokens = np.array([[1, 1, 1, 1], [1, 2, 3, 4], [4, 3, 2, 1], [1, 2, 3, 4]]) * scale
    with pytest.raises(SidError, match="rows 1 and 3 have the same SID"):
        Trie.from_tokens(tokens)


def test_wide_ids_and_long_sids_sort_like_narrow_ones():
    rng = np.random.default_rng(0)
    tokens = np.unique(rng.integers(0, 3, (60, 6)), axis=0)
    wide = Trie.from_tokens(tokens * BIG)
    assert (wide.tokens() == tokens * BIG).all()
    assert wide.allowed((BIG,)).tolist() == [t * BIG for t in children(tokens, (1,))]


@pytest.mark.parametrize("tokens", [np.empty((0, 3), int), np.empty((3, 0), int), np.zeros(3, int), np.zeros((2, 2))])
def test_what_is_not_a_catalogue_is_refused(tokens):
    with pytest.raises(SidError, match="a trie needs integers"):
        _checked(tokens)  # the public signature says the shape; this is what an unchecked caller gets


def test_negative_ids_are_refused_with_their_row():
    with pytest.raises(SidError, match="row 1"):
        Trie.from_tokens(np.array([[1, 2], [1, -2]]))


def test_torch_tokens_make_the_same_trie():
    assert (Trie.from_tokens(torch.from_numpy(GOLDEN)).tokens() == GOLDEN).all()


@given(tokens_NL=catalogues(min_items=2), cut=st.integers(1, 60))
@many
def test_append_equals_building_from_all_and_keeps_rows(tokens_NL, cut):
    cut = min(cut, len(tokens_NL) - 1)
    trie = Trie.from_tokens(tokens_NL[:cut])
    rows = trie.append(tokens_NL[cut:])
    assert rows.tolist() == list(range(cut, len(tokens_NL)))
    whole = Trie.from_tokens(tokens_NL).state
    for mine, theirs in zip((*trie.state.token, *trie.state.first), (*whole.token, *whole.first), strict=True):
        assert mine.tolist() == theirs.tolist()
    assert trie.state.row.tolist() == whole.row.tolist()


def test_append_refuses_a_sid_that_exists_and_changes_nothing():
    trie = Trie.from_tokens(GOLDEN)
    with pytest.raises(SidError, match=r"row 4 \(new\) has the SID of row 1"):
        trie.append(np.array([[0, 0], [1, 2]]))
    with pytest.raises(SidError, match="rows 3 and 4"):
        trie.append(np.array([[5, 5], [5, 5]]))
    with pytest.raises(SidError, match="3 tokens"):
        trie.append(np.array([[5, 5, 5]]))
    assert (trie.tokens() == GOLDEN).all()


@given(tokens_NL=catalogues(), data=st.data())
@many
def test_removed_items_leave_no_prefix_behind(tokens_NL, data):
    gone = data.draw(st.sets(st.integers(0, len(tokens_NL) - 1)))
    trie = Trie.from_tokens(tokens_NL)
    trie.remove(sorted(gone))
    left = np.array([t for i, t in enumerate(tokens_NL) if i not in gone]).reshape(-1, trie.depth)
    assert len(trie) == len(left) and trie.num_rows == len(tokens_NL)
    assert trie.allowed(()).tolist() == children(left, ())
    for i, sid in enumerate(tokens_NL.tolist()):
        if i in gone:
            with pytest.raises(SidError):
                trie.allowed(sid)
        else:
            assert trie.allowed(sid[:-1]).tolist() == children(left, tuple(sid[:-1]))


def test_rows_out_of_range_and_masks_of_another_length_are_refused():
    trie = Trie.from_tokens(GOLDEN)
    with pytest.raises(DataError, match="row 3"):
        trie.remove([0, 3])
    with pytest.raises(DataError, match="2 values"):
        trie.mask(np.ones(2, dtype=bool))


@given(tokens_NL=catalogues(), data=st.data())
@many
def test_a_mask_marks_exactly_the_prefixes_of_allowed_items(tokens_NL, data):
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=len(tokens_NL), max_size=len(tokens_NL))))
    trie = Trie.from_tokens(tokens_NL)
    mask = trie.mask(allowed)
    for level in range(trie.depth):
        assert mask.allowed[level].sum() == len({tuple(t[: level + 1]) for t in tokens_NL[allowed].tolist()})


@pytest.mark.parametrize("mmap", [True, False])
@given(tokens_NL=catalogues())
@settings(max_examples=20)
def test_a_saved_trie_is_the_same_when_loaded(tmp_path_factory, mmap, tokens_NL):
    path = tmp_path_factory.mktemp("trie") / "trie.npy"
    trie = Trie.from_tokens(tokens_NL)
    trie.remove([0])
    trie.save(path)
    loaded = Trie.load(path, mmap=mmap)
    assert (loaded.tokens() == tokens_NL).all()
    assert loaded.state.alive_N.tolist() == trie.state.alive_N.tolist()
    assert [p.name for p in path.parent.iterdir()] == ["trie.npy"]


def test_a_saved_trie_can_be_read_by_whom_the_umask_lets(tmp_path: Path):
    before = os.umask(0o022)
    try:
        Trie.from_tokens(GOLDEN).save(tmp_path / "trie.npy")
    finally:
        os.umask(before)
    assert (tmp_path / "trie.npy").stat().st_mode & 0o777 == 0o644


def test_a_trie_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch):
    path = tmp_path / "trie.npy"
    Trie.from_tokens(GOLDEN).save(path)
    whole = path.read_bytes()

    def no_room(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OSError, match="No space left"):
        Trie.from_tokens(GOLDEN).save(path)
    assert path.read_bytes() == whole and [p.name for p in tmp_path.iterdir()] == ["trie.npy"]


def test_broken_files_are_refused(tmp_path: Path):
    path = tmp_path / "trie.npy"
    Trie.from_tokens(GOLDEN).save(path)
    whole = path.read_bytes()
    for content in (b"", b"what", whole[:-8], whole[:40]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="trie"):
            Trie.load(path)
    np.save(path, np.load(_resaved(path, whole))[:-1])
    with pytest.raises(DataError, match="expected"):
        Trie.load(path)
    np.save(path, np.arange(9, dtype=np.int32))
    with pytest.raises(DataError, match="not a trie file of version"):
        Trie.load(path)


def _resaved(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_search_state_is_not_changed_by_later_changes():
    trie = Trie.from_tokens(GOLDEN)
    before = trie.state
    trie.append(np.array([[9, 9]]))
    trie.remove([0])
    assert len(before.row) == 3 and before.alive_N.all()


def test_a_hundred_thousand_items_take_less_than_thirty_bytes_each():
    rng = np.random.default_rng(0)
    tokens = np.unique(rng.integers(0, 256, (100_000, 4)), axis=0)
    assert Trie.from_tokens(tokens).nbytes < 30 * len(tokens)
