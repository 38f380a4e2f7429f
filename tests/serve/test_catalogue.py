"""The versions of a served catalogue: nothing that exists moves, nothing half-written or damaged is ever used."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crsearch.errors import DataError, RunError, SidError
from crsearch.records.types import Item
from crsearch.runs import RunDirectory
from crsearch.serve import catalogue as module
from crsearch.serve.catalogue import CatalogueStore, checked_name
from crsearch.sids import SidBook


@pytest.fixture
def run(tiny_run, tmp_path) -> Path:
    """A finished run that may be changed."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture
def store(run) -> CatalogueStore:
    return CatalogueStore(run)


def like(store: CatalogueStore, row: int, item_id: str, **changes: object) -> Item:
    """A new item with the words of an item of the run."""
    return dataclasses.replace(store.load("v000001").catalogue[row], item_id=item_id, **changes)


def folder(store: CatalogueStore, name: str) -> Path:
    return store.place / name


def test_the_first_version_is_the_run_in_ids_of_its_tokenizer(run, store):
    from crsearch.models import load_bundle

    version = store.load()
    book = SidBook.load(run / "sids")
    assert (version.name, store.current(), version.about.action) == ("v000001", "v000001", "begin")
    assert version.catalogue.ids == book.item_ids
    assert (version.sid_ids_NL == load_bundle(run / "models/base", book).sid_ids_NL).all()
    assert (version.trie.tokens() == version.sid_ids_NL).all()
    assert len(version) == len(version.items) == 40


def test_new_items_come_at_the_end_and_nothing_else_changes(store):
    before = store.load()
    after = store.add([like(store, 3, "new1"), like(store, 5, "new2", title="something else")])
    assert store.current() == after.name == "v000002"
    assert after.catalogue[:40] == before.catalogue[:40] and after.catalogue.ids[40:] == ("new1", "new2")
    assert after.book.codes_NL[:40].tobytes() == before.book.codes_NL.tobytes()
    assert after.trie.tokens()[:40].tobytes() == before.trie.tokens().tobytes()
    assert [after.book.sid(row) for row in range(40)] == [before.book.sid(row) for row in range(40)]
    assert after.book.fingerprint() == before.book.fingerprint(), "the model stays valid"
    assert "new1" in after and "new1" not in before
    assert len(before) == 40, "who holds a version can go on with it"


def test_an_item_with_the_words_of_another_gets_its_layer_codes_and_the_next_free_last_code(store):
    after = store.add([like(store, 3, "twin"), like(store, 3, "triplet")])
    codes_NL = after.book.codes_NL
    assert (codes_NL[40:, :-1] == codes_NL[3, :-1]).all()
    bucket = (codes_NL[:40, :-1] == codes_NL[3, :-1]).all(axis=1)
    assert codes_NL[40:, -1].tolist() == [bucket.sum(), bucket.sum() + 1]
    assert after.about.drift is not None


@pytest.mark.parametrize("change", ["add", "remove", "replace", "revive"])
def test_a_version_read_from_disk_is_the_one_that_was_made(run, store, change):
    made = {
        "add": lambda: store.add([like(store, 3, "new")]),
        "remove": lambda: store.remove([store.load().catalogue.ids[3]]),
        "replace": lambda: store.replace([dataclasses.replace(store.load().catalogue[3], title="other words")]),
        "revive": lambda: store.add([store.remove([store.load().catalogue.ids[3]]).catalogue[3]]),
    }[change]()
    read = CatalogueStore(run).load()
    assert read.about == made.about and read.catalogue == made.catalogue
    assert (read.alive_N == made.alive_N).all() and (read.book.codes_NL == made.book.codes_NL).all()
    assert (read.trie.tokens() == made.trie.tokens()).all() and (read.trie.state.alive_N == read.alive_N).all()


def test_another_process_follows_every_change(run, store):
    follower = CatalogueStore(run)
    follower.load()
    ids = store.load().catalogue.ids
    for change in (
        lambda: store.add([like(store, 3, "new")]),
        lambda: store.remove([ids[0], "new"]),
        lambda: store.replace([like(store, 1, ids[1], title="other words")]),
        lambda: store.add([like(store, 3, "new", title="changed while away"), like(store, 4, "new2")]),
        lambda: store.rollback("v000002"),
        lambda: store.add([like(store, 5, "new3")]),
    ):
        made, followed = change(), follower.load()
        assert followed.about == made.about and followed.catalogue == made.catalogue
        assert (followed.book.codes_NL == made.book.codes_NL).all() and (followed.alive_N == made.alive_N).all()


def test_a_removed_item_is_found_no_more_and_comes_back_with_its_row_and_sid(store):
    first = store.load()
    item = first.catalogue[7]
    without = store.remove([item.item_id])
    assert item.item_id not in without and item.item_id in without.catalogue.ids and len(without) == 39
    prefix = without.sid_ids_NL[7].tolist()
    with pytest.raises(SidError, match="leads to none"):
        without.trie.allowed(prefix)
    back = store.add([dataclasses.replace(item, title="quite another thing"), like(store, 7, "new")])
    assert (back.about.revived, back.about.added) == (1, 1)
    assert back.catalogue.row(item.item_id) == 7 and back.catalogue[7].title == "quite another thing"
    assert back.book.sid(7) == first.book.sid(7) and back.trie.allowed(prefix).tolist() == []
    assert item.item_id in back


def test_replace_keeps_row_and_sid_and_counts_what_would_move(store):
    first = store.load()
    same, other = first.catalogue[2], first.catalogue[9]
    after = store.replace([dataclasses.replace(same, description="more words"), dataclasses.replace(other, title="zz")])
    assert after.catalogue[2].description == "more words"
    assert after.catalogue[9].title == "zz" and after.book is first.book
    assert after.about.replaced == 2
    untouched = store.replace([dataclasses.replace(same, description="yet others")])
    assert untouched.about.moved == 0, "the description is no part of what an embedding reads"


def test_what_cannot_be_done_changes_nothing(store):
    store.remove([store.load().catalogue.ids[0]])
    gone, there = store.load().catalogue[0], store.load().catalogue[1]
    new = like(store, 1, "new")
    for change, refused in [
        (lambda: store.add([there, new]), "in the catalogue already"),
        (lambda: store.add([new, new]), "given 2 times"),
        (lambda: store.add([]), "no item"),
        (lambda: store.replace([new]), "not in the catalogue"),
        (lambda: store.replace([gone]), "not in the catalogue"),
        (lambda: store.remove(["nobody"]), "'nobody' is not in the catalogue"),
        (lambda: store.remove([gone.item_id]), "not in the catalogue"),
        (lambda: store.remove(store.load().catalogue.ids[1:]), "at least one"),
    ]:
        with pytest.raises(DataError, match=refused):
            change()
    assert [a.name for a in store.versions()] == ["v000001", "v000002"] and store.current() == "v000002"


def test_a_full_bucket_names_its_items_and_writes_nothing(store):
    room = store.load().book.dedup_codes
    many = [like(store, 3, f"copy{n}") for n in range(room + 1)]
    with pytest.raises(SidError, match=r"sid_space_full: <a_\d+>.*new item 'copy\d+'.*sids.spare_duplicates") as told:
        store.add(many)
    assert f"'copy{room}'" in str(told.value)
    assert [a.name for a in store.versions()] == ["v000001"]
    assert sorted(p.name for p in store.place.iterdir()) == [".lock", "current", "v000001"]


def test_drift_is_one_for_items_of_the_run_and_high_for_strangers(run, store):
    quality = json.loads((run / "sids/quality.json").read_text())
    known = store.replace(list(store.load().catalogue))
    assert known.about.drift == pytest.approx(1.0) and known.about.moved == 0
    error = quality["layers"][-1]["reconstruction_error"]
    assert store._new(known).error == pytest.approx(error), "the same figure as in the quality of the semantic IDs"
    strange = store.add([Item(item_id="strange", title=" ".join(i.title for i in known.items))])
    assert strange.about.drift > 1.5 and any("drift" in note for note in strange.about.notes)
    wordless = store.add([Item(item_id="wordless", title="qwxz")])
    assert wordless.about.unread == 1 and any("no word" in note for note in wordless.about.notes)


def test_rollback_goes_back_and_numbers_go_on(store):
    store.load()
    store.add([like(store, 3, "new")])
    assert store.rollback().name == store.current() == "v000001"
    assert "new" not in store.load()
    with pytest.raises(RunError, match="no version before v000001"):
        store.rollback()
    third = store.add([like(store, 4, "other")])
    assert (third.name, third.about.parent) == ("v000003", "v000001")
    assert store.rollback("v000002").name == store.current() == "v000002"


def test_prune_spares_the_newest_the_one_in_use_and_its_parent(store):
    for n in range(4):
        store.add([like(store, n, f"new{n}")])
    store.rollback("v000003")
    held = store.load("v000001")
    assert store.prune(1) == ["v000001", "v000004"]
    assert [a.name for a in store.versions()] == ["v000002", "v000003", "v000005"]
    assert len(held) == 40 and store.add([like_of(held, "later")]).name == "v000006"


def like_of(version, item_id: str) -> Item:
    return dataclasses.replace(version.catalogue[0], item_id=item_id)


@pytest.mark.parametrize("name", ["../x", "v1", "v000001/../..", "/etc", "", "v000001\0", "V000001", "v0000010"])
def test_a_name_is_never_a_path(store, name):
    with pytest.raises(RunError, match="no name of a catalogue version"):
        checked_name(name)
    for use in (store.load, store.rollback):
        with pytest.raises(RunError, match="no name of a catalogue version"):
            use(name)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


FILES = ("items.parquet", "sids/codebooks.safetensors", "sids/items.parquet", "sids/sid2item.json", "trie.npy",
         "token_ids.npy", "about.json", "manifest.json")  # fmt: skip


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "harm", [flip, Path.unlink, lambda p: p.write_bytes(p.read_bytes()[:-7]), lambda p: p.write_bytes(b"")]
)
def test_a_damaged_version_is_refused_and_the_one_in_use_stays(run, store, file, harm):
    store.add([like(store, 3, "new")])
    store.rollback()
    harm(folder(store, "v000002") / file)
    for use in (CatalogueStore(run).rollback, CatalogueStore(run).load, store.rollback, store.load):
        with pytest.raises(RunError, match="v000002"):
            use("v000002")
    assert CatalogueStore(run).load().name == "v000001"
    assert store.add([like(store, 3, "new")]).name == "v000003", "its number is not given again"


def test_every_flipped_byte_of_a_manifest_is_noticed(run, store):
    store.add([like(store, 3, "new")])
    file = folder(store, "v000002") / "manifest.json"
    whole = file.read_bytes()
    for at in range(0, len(whole), 7):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(RunError):
            CatalogueStore(run).load()


def test_a_file_too_many_or_a_link_is_refused(run, store):
    store.load()
    extra = folder(store, "v000001") / "more.json"
    extra.write_text("{}")
    with pytest.raises(RunError, match="not part of this folder"):
        CatalogueStore(run).load()
    extra.unlink()
    items = folder(store, "v000001") / "items.parquet"
    items.rename(run / "elsewhere.parquet")
    items.symlink_to(run / "elsewhere.parquet")
    with pytest.raises(RunError, match="not part of this folder"):
        CatalogueStore(run).load()


def test_a_damaged_version_in_use_is_said_at_the_next_change(store):
    store.load()
    flip(folder(store, "v000001") / "items.parquet")
    with pytest.raises(RunError, match="changed since it was written"):
        store.remove([store.load().catalogue.ids[0]])
    assert store.load().name == "v000001", "what is in memory goes on"


def test_the_list_names_damaged_versions(store):
    store.add([like(store, 3, "new")])
    (folder(store, "v000001") / "about.json").write_text("{")
    first, second = store.versions()
    assert "unreadable" in first.problem and second.problem == "" and second.added == 1


def test_a_newer_format_is_refused_naming_both(run, store):
    store.load()
    file = folder(store, "v000001") / "manifest.json"
    file.write_text(file.read_text().replace('"format":1', '"format":7'))
    with pytest.raises(RunError, match="written in format 7, this crsearch reads up to 1"):
        CatalogueStore(run).load()


def test_a_run_that_was_made_again_refuses_the_old_catalogue(run, store):
    store.load()
    flip(run / "sids" / "items.parquet")
    with pytest.raises(RunError, match="made for other semantic IDs"):
        CatalogueStore(run).load()


def changing(run: Path, point: str) -> subprocess.Popen:
    """A process that adds three items, or dies at a named point."""
    return subprocess.Popen([sys.executable, Path(__file__).with_name("changing.py"), run, point])


def test_killed_between_rename_and_swap_the_old_version_serves(run, store):
    store.load()
    assert changing(run, "between-rename-and-swap").wait() == 9
    assert CatalogueStore(run).load().name == "v000001"
    assert [a.name for a in store.versions()] == ["v000001", "v000002"]
    assert store.add([like(store, 3, "new")]).name == "v000003"


def test_killed_before_the_rename_nothing_is_left(run, store):
    store.load()
    assert changing(run, "before-rename").wait() == 9
    assert [p.name for p in store.place.glob(".tmp-*")] != []
    assert store.add([like(store, 3, "new")]).name == "v000002"
    assert [p.name for p in store.place.glob(".tmp-*")] == []


def test_a_full_disk_leaves_the_version_in_use(run, store):
    store.warm()
    assert changing(run, "full-disk").wait() == 2
    assert [a.name for a in store.versions()] == ["v000001"] and list(store.place.glob(".tmp-*")) == []
    assert store.add([like(store, 3, "new")]).name == "v000002"


def test_killed_before_the_first_version_was_named_it_is_found(run):
    assert changing(run, "very-first-swap").wait() == 9
    store = CatalogueStore(run)
    assert [p.name for p in store.place.glob("v*")] == ["v000001"]
    assert store.current() == "v000001"


def test_versions_without_a_name_in_use_ask_which(run, store):
    store.add([like(store, 3, "new")])
    (store.place / "current").unlink()
    with pytest.raises(RunError, match="none is named as the one in use"):
        CatalogueStore(run).load()
    assert [(a.name, a.is_current) for a in store.versions()] == [("v000001", False), ("v000002", False)]
    assert CatalogueStore(run).rollback("v000002").name == "v000002"
    assert [a.is_current for a in store.versions()] == [False, True]


def test_two_processes_lose_no_change(run, store):
    store.load()

    children = [changing(run, name) for name in ("one", "two")]
    assert [child.wait() for child in children] == [0, 0]
    assert {f"{name}-{n}" for name in ("one", "two") for n in range(3)} < set(store.load().catalogue.ids)
    assert [a.name for a in store.versions()] == [f"v00000{n}" for n in range(1, 8)]


def test_who_waits_too_long_is_told_for_whom(run, store, monkeypatch):
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.05)
    with store._changing(), pytest.raises(RunError, match=f"in use by process {os.getpid()}"):
        CatalogueStore(run).add([Item(item_id="new", title="case")])


def test_opening_the_run_leaves_a_version_that_is_being_written(run, store):
    store.load()
    writing = store.place / ".tmp-1-v000002"
    writing.mkdir()
    with RunDirectory(run):
        pass
    assert writing.is_dir()


def test_a_run_without_a_model_is_refused(tmp_path):
    with pytest.raises(RunError, match="no such run directory"):
        CatalogueStore(tmp_path / "run").load()
    with RunDirectory(tmp_path / "run") as run:
        run.describe({"seed": 0})
    with pytest.raises(RunError, match="no semantic IDs yet"):
        CatalogueStore(tmp_path / "run").load()


def test_another_encoder_than_that_of_the_run_is_noticed(run, store):
    settings = run / "settings.toml"
    settings.write_text(settings.read_text().replace("dim = 16", "dim = 8"))
    with pytest.raises(SidError, match="built with"):
        store.add([like(store, 3, "new")])


def test_random_codes_have_no_place_for_new_items(run, store):
    book = SidBook.load(run / "sids")
    empty = tuple(np.empty((len(c), 0), dtype=np.float32) for c in book.codebooks)
    dataclasses.replace(book, codebooks=empty).save(run / "sids")
    with RunDirectory(run) as directory:
        directory.complete("sids", "other", [run / "sids"])
    with pytest.raises(SidError, match="semantic IDs are random"):
        store.add([Item(item_id="new", title="case")])
    assert len(store.remove([book.item_ids[0]])) == 39


def test_the_encoder_is_fitted_once_and_again_if_damaged(run, store):
    first = store.add([like(store, 3, "new")])
    kept = run / "serving" / "encoder" / "lsa.safetensors"
    written = kept.stat().st_mtime_ns
    CatalogueStore(run).add([like(store, 4, "new2")])
    assert kept.stat().st_mtime_ns == written
    flip(kept)
    other = CatalogueStore(run)
    other.rollback("v000001")
    again = other.add([like(store, 3, "new")])
    assert (again.book.codes_NL == first.book.codes_NL).all()
