import os
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crsearch.config import SplitConfig, load_settings
from crsearch.errors import ConfigError, DataError, StorageError
from crsearch.records.split import choose_targets, part_of
from crsearch.records.store import Catalogue, Dataset
from crsearch.records.types import Item, Search, User

SPLIT = SplitConfig()
NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


def shop(searches: list[Search], items: str = "abc", **options: object) -> Dataset:
    catalogue = Catalogue(Item(item_id=i, title=f"Item {i}") for i in items)
    users = {s.user_id: User(user_id=s.user_id) for s in searches}
    return Dataset(catalogue, users, tuple(searches), choose_targets(searches, SPLIT, catalogue), **options)


def search(search_id: str, time: datetime | int, user: str = "u", **fields: object) -> Search:
    return Search(search_id=search_id, user_id=user, time=time, query=f"query {search_id}", **fields)


def example_of(data: Dataset, max_events: int = 10):
    (example,) = [e for part in ("train", "valid", "test") for e in data.examples(part, max_events)]
    return example


class TestExamples:
    def test_the_example_is_the_last_search_with_a_choice_and_bought_wins_over_clicked(self):
        data = shop([search("1", 1, clicked=("a",)), search("2", 2, clicked=("b", "c"), bought=("b",)), search("3", 3)])
        example = example_of(data)
        assert (example.context.search_id, example.target) == ("2", "b")

    def test_history_is_the_newest_events_before_the_example_oldest_first(self):
        data = shop([search(str(i), i, clicked=("a",)) for i in range(12)])
        assert [s.search_id for s in example_of(data, 3).context.history] == ["8", "9", "10"]
        assert example_of(data, 0).context.history == ()

    def test_events_of_one_day_keep_the_order_they_came_in(self):
        day = [search(name, NOON, clicked=("a",)) for name in ("z", "m", "a")]
        example = example_of(shop(day))
        assert example.context.search_id == "a"
        assert [s.search_id for s in example.context.history] == ["z", "m"]

    def test_other_users_are_never_in_a_history(self):
        data = shop([search("1", 1, "u"), search("2", 2, "v", clicked=("a",)), search("3", 3, "w")])
        assert example_of(data).context.history == ()

    def test_a_user_without_a_choice_has_no_example_and_stays_a_user(self):
        data = shop([search("1", 1)])
        assert not data.targets and [s.search_id for s in data.searches_of("u")] == ["1"]

    def test_parts_hold_every_user_once(self):
        data = shop([search(f"s{i}", 1, f"u{i}", clicked=("a",)) for i in range(300)])
        examples = [e for part in ("train", "valid", "test") for e in data.examples(part, 5)]
        assert sorted(e.context.user_id for e in examples) == sorted(data.users)
        assert all(e.part == part_of(e.context.user_id, SPLIT) for e in examples)


class TestSplit:
    def test_shares_are_met(self):
        parts = [part_of(f"user {i}", SPLIT) for i in range(20_000)]
        assert parts.count("test") / 20_000 == pytest.approx(0.1, abs=0.01)
        assert parts.count("valid") / 20_000 == pytest.approx(0.05, abs=0.01)

    def test_a_larger_test_share_only_adds_test_users(self):
        small, large = SplitConfig(test=0.1), SplitConfig(test=0.3)
        users = [f"u{i}" for i in range(2_000)]
        was = {u for u in users if part_of(u, small) == "test"}
        assert was < {u for u in users if part_of(u, large) == "test"}

    def test_shares_that_leave_nobody_to_train_are_refused(self):
        with pytest.raises(ConfigError, match=r"split\.test \+ split\.valid = 1"):
            load_settings(overrides=["split.test=0.6", "split.valid=0.4"])

    def test_the_part_of_a_known_user_never_changes(self):
        assert [part_of(u, SPLIT) for u in ("u1", "u2", "u23", "顾客")] == ["train", "train", "train", "valid"]


class TestReferences:
    def test_an_unknown_item_is_an_error_with_counts_unless_asked_for(self):
        searches = [search("1", 1, shown=("a", "x"), clicked=("x",)), search("2", 2, clicked=("a", "x"))]
        with pytest.raises(DataError, match=r"1 items \(2 mentions.*'x'.*--unknown-items"):
            shop(searches)
        data = shop(searches, unknown_items="text")
        assert data.searches[0].clicked == ("x",)
        assert not data.targets, "an item outside the catalogue is never a target"

    @pytest.mark.parametrize(
        ("searches", "message"),
        [
            ([search("1", 1), search("1", 2)], "search_id '1' occurs 2 times"),
            ([search("1", 1), search("2", NOON)], "one kind of time"),
            ([search("1", NOON.replace(tzinfo=None))], "has no time zone"),
        ],
    )
    def test_broken_searches_are_refused(self, searches, message):
        with pytest.raises(DataError, match=message):
            shop(searches)

    def test_a_search_of_nobody_is_refused(self):
        with pytest.raises(DataError, match="1 users of searches are not among the users"):
            Dataset(Catalogue([]), {}, (search("1", 1),), {})

    def test_a_target_outside_the_catalogue_is_refused(self):
        with pytest.raises(DataError, match="target 'x'"):
            Dataset(Catalogue([]), {"u": User(user_id="u")}, (search("1", 1),), {"1": ("x", "train")})

    def test_a_repeated_item_id_is_refused(self):
        with pytest.raises(DataError, match="'a' occurs 2 times among 2"):
            Catalogue([Item(item_id="a", title="x"), Item(item_id="a", title="y")])

    def test_an_unknown_row_is_refused_with_the_size_of_the_catalogue(self):
        with pytest.raises(DataError, match=r"'x' is not in the catalogue \(1 items\)"):
            Catalogue([Item(item_id="a", title="x")]).row("x")

    def test_times_are_kept_in_utc(self):
        data = shop([search("1", NOON.astimezone(timezone(timedelta(hours=8))))])
        assert data.searches[0].time == NOON and data.searches[0].time.tzinfo is UTC


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
words = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)
maps = st.dictionaries(words, texts, max_size=3)
prices = st.none() | st.floats(0.01, 1e6)
moments = st.datetimes(datetime(2000, 1, 1), datetime(2030, 1, 1)).map(lambda t: t.replace(tzinfo=UTC))


@st.composite
def raw_records(draw: st.DrawFn) -> dict[str, list[dict[str, object]]]:
    """Arguments of records; the records themselves are made in the test (their type checks draw numbers)."""
    ids = draw(st.lists(words, min_size=1, max_size=5, unique=True))
    users = draw(st.lists(words, min_size=1, max_size=3, unique=True))
    times = draw(st.sampled_from([st.integers(0, 5), moments]))
    some = st.lists(st.sampled_from(ids), max_size=3).map(tuple)
    item = {
        "title": texts, "brand": st.none() | texts, "category": st.lists(texts, max_size=3).map(tuple),
        "price": prices, "sales": prices, "attributes": maps, "description": st.none() | texts,
    }  # fmt: skip
    search = {
        "user_id": st.sampled_from(users), "time": times, "query": texts, "place": st.none() | texts,
        "shown": some, "clicked": some, "bought": some,
    }  # fmt: skip
    rows = draw(st.lists(st.fixed_dictionaries(search), max_size=6))
    return {
        "items": [{"item_id": i} | draw(st.fixed_dictionaries(item)) for i in ids],
        "users": [{"user_id": u, "profile": draw(maps)} for u in users],
        "searches": [{"search_id": f"s{n}"} | row for n, row in enumerate(rows)],
    }


def dataset(raw: dict[str, list[dict[str, object]]]) -> Dataset:
    catalogue = Catalogue(Item(**row) for row in raw["items"])
    searches = tuple(Search(**row) for row in raw["searches"])
    users = {row["user_id"]: User(**row) for row in raw["users"]}
    return Dataset(catalogue, users, searches, choose_targets(searches, SPLIT, catalogue))


class TestFiles:
    @given(raw=raw_records())
    @settings(max_examples=40)
    def test_save_and_load_return_the_same_records_and_fingerprint(self, tmp_path_factory, raw):
        data = dataset(raw)
        folder = tmp_path_factory.mktemp("set")
        data.save(folder)
        again = Dataset.load(folder)
        assert again == data
        assert again.fingerprint() == data.fingerprint()
        assert {p.name for p in folder.iterdir()} == {f"{n}.parquet" for n in ("items", "users", "searches", "split")}

    def test_stored_order_survives_a_shuffle_of_the_file(self, tmp_path):
        data = shop([search(name, NOON, clicked=("a",)) for name in "dacb"])
        data.save(tmp_path)
        path = tmp_path / "searches.parquet"
        pl.read_parquet(path).sort("search_id").write_parquet(path)
        assert [s.search_id for s in Dataset.load(tmp_path).searches] == list("dacb")

    def test_a_seq_against_the_clock_is_refused(self, tmp_path):
        shop([search("1", 1), search("2", 2)]).save(tmp_path)
        path = tmp_path / "searches.parquet"
        pl.read_parquet(path).with_columns(seq=pl.Series([1, 0])).write_parquet(path)
        with pytest.raises(DataError, match="'1': its seq puts it after a search with a later time"):
            Dataset.load(tmp_path)

    def test_the_fingerprint_sees_every_record_and_not_the_order_of_maps(self):
        one = shop([search("1", 1, clicked=("a",))])
        assert one.fingerprint() != shop([search("1", 2, clicked=("a",))]).fingerprint()
        assert one.fingerprint() != shop([search("1", 1, clicked=("a",))], items="acb").fingerprint()
        profiles = [{"age": "3", "city": "x"}, {"city": "x", "age": "3"}]
        first, second = (Dataset(Catalogue([]), {"u": User(user_id="u", profile=p)}, (), {}) for p in profiles)
        assert first.fingerprint() == second.fingerprint()

    def test_unknown_items_kept_as_text_survive_the_disk(self, tmp_path):
        data = shop([search("1", 1, clicked=("x",))], unknown_items="text")
        data.save(tmp_path)
        assert Dataset.load(tmp_path) == data

    def test_columns_that_a_tool_left_out_are_absent_values(self, tmp_path):
        shop([search("1", 1, clicked=("a",))]).save(tmp_path)
        items = tmp_path / "items.parquet"
        pl.read_parquet(items).select("item_id", "title").write_parquet(items)
        assert Dataset.load(tmp_path).catalogue[0] == Item(item_id="a", title="Item a")

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda f: (f / "users.parquet").unlink(), r"users\.parquet: no such file"),
            (lambda f: (f / "items.parquet").write_bytes(b"PAR1"), r"items\.parquet: not a readable Parquet"),
            (
                lambda f: (f / "items.parquet").write_bytes((f / "items.parquet").read_bytes()[:200]),
                r"items\.parquet: not a readable Parquet",
            ),
            (
                lambda f: pl.DataFrame({"item_id": ["a"]}).write_parquet(f / "items.parquet"),
                "column 'title' is missing",
            ),
            (
                lambda f: pl.DataFrame({"item_id": ["a"], "title": [3]}).write_parquet(f / "items.parquet"),
                "column 'title' has type Int64",
            ),
            (
                lambda f: pl.DataFrame({"item_id": ["a", None], "title": ["x", "y"]}).write_parquet(
                    f / "items.parquet"
                ),
                "row 2: item_id is empty",
            ),
            (
                lambda f: pl.read_parquet(f / "items.parquet").write_parquet(
                    f / "items.parquet", metadata={"crsearch.format": "9"}
                ),
                "written in format 9, this crsearch reads up to 1",
            ),
            (
                lambda f: pl.read_parquet(f / "items.parquet").write_parquet(
                    f / "items.parquet", metadata={"crsearch.fingerprint": "0" * 64}
                ),
                "of different saves",
            ),
        ],
    )
    def test_a_spoiled_folder_is_refused_with_the_file_named(self, tmp_path, spoil, message):
        shop([search("1", 1, clicked=("a",))]).save(tmp_path)
        spoil(tmp_path)
        with pytest.raises(DataError, match=message):
            Dataset.load(tmp_path)


class _Crash(BaseException):
    """Stands for kill -9: nothing that handles errors may handle it."""


class TestAtomicity:
    @pytest.mark.parametrize("survives", range(6))
    def test_a_crash_during_save_leaves_the_old_or_the_new_records(self, tmp_path, monkeypatch, survives):
        old, new = shop([search("1", 1, clicked=("a",))]), shop([search("2", 2, clicked=("b",))])
        old.save(tmp_path)
        moves = iter(range(survives))

        def crash_after(move):
            def moved(self, target):
                if next(moves, None) is None:
                    raise _Crash
                return move(self, target)

            return moved

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", crash_after(Path.replace))
            patch.setattr(Path, "rename", crash_after(Path.rename))
            if survives < 5:
                with pytest.raises(_Crash):
                    new.save(tmp_path)
            else:
                new.save(tmp_path)
        assert Dataset.load(tmp_path) == (new if survives else old)

    def test_a_failing_write_leaves_the_old_records_and_no_rubbish(self, tmp_path, monkeypatch):
        old = shop([search("1", 1, clicked=("a",))])
        old.save(tmp_path)
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

        def no_room(handle):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch, pytest.raises(StorageError, match="No space left"):
            patch.setattr(os, "fsync", no_room)
            shop([search("2", 2)]).save(tmp_path)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
        assert Dataset.load(tmp_path) == old

    def test_a_folder_that_cannot_be_made_is_a_storage_error(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="cannot be written"):
            shop([search("1", 1)]).save(tmp_path / "file" / "set")

    def test_other_files_of_the_folder_stay(self, tmp_path):
        (tmp_path / "truth.parquet").write_bytes(b"x")
        (tmp_path / ".saving-dead").mkdir()
        shop([search("1", 1)]).save(tmp_path)
        assert (tmp_path / "truth.parquet").read_bytes() == b"x"
        assert not (tmp_path / ".saving-dead").exists()
