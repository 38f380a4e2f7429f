import json
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from crsearch.config import SplitConfig
from crsearch.errors import ConfigError, DataError
from crsearch.records.checks import check_folder
from crsearch.records.importers.tables import import_tables
from crsearch.records.types import Item, Search, User

SPLIT = SplitConfig()
NOW = datetime(2026, 1, 1, tzinfo=UTC)

MAPPING = """
[items]
file = "products.csv"
item_id = "sku"
title = "name"
brand = "maker"
category = { column = "path", split = ">" }
price = "price"
attributes = ["colour"]

[users]
file = "customers.jsonl"
user_id = "id"
profile = { age = "age_band" }

[searches]
file = "log.csv"
user_id = "customer"
time = { column = "ts", zone = "Europe/Berlin" }
query = "q"
shown = { column = "skus", split = "," }
clicked = { column = "clicks", split = "," }
"""
ORDERED = MAPPING.replace('zone = "Europe/Berlin"', 'format = "order"')
PRODUCTS = "sku,name,maker,path,price,colour\n1,Red &amp; round,Acme,Phones > Cases,5.5,red\n2,Blue,,Phones,,\n"
CUSTOMERS = '{"id": 7, "age_band": "25-34"}\n'
LOG = 'customer,ts,q,skus,clicks\n7,2025-06-01 20:11,case,"1,2",2\n8,2025-01-01 12:00:00,phone,2,\n'


def write(folder: Path, mapping: str = MAPPING, **files: str) -> Path:
    contents = {"mapping.toml": mapping, "products.csv": PRODUCTS, "customers.jsonl": CUSTOMERS, "log.csv": LOG}
    for name, text in (contents | {k.replace("_", "."): v for k, v in files.items()}).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def load(folder: Path, **options: object):
    return import_tables(folder, SPLIT, now=NOW, **options)


class TestWideLogs:
    def test_every_field_arrives(self, tmp_path):
        data, report = load(write(tmp_path))
        assert list(data.catalogue) == [
            Item(item_id="1", title="Red & round", brand="Acme", category=("Phones", "Cases"), price=5.5, sales=0.0,
                 attributes={"colour": "red"}),
            Item(item_id="2", title="Blue", category=("Phones",), sales=1.0),
        ]  # fmt: skip
        assert data.users == {"7": User(user_id="7", profile={"age": "25-34"}), "8": User(user_id="8")}
        summer, winter = datetime(2025, 6, 1, 18, 11, tzinfo=UTC), datetime(2025, 1, 1, 11, tzinfo=UTC)
        assert data.searches == (
            Search(search_id="s2", user_id="7", time=summer, query="case", shown=("1", "2"), clicked=("2",)),
            Search(search_id="s3", user_id="8", time=winter, query="phone", shown=("2",)),
        )
        assert report.changed["users of the log without a row in users (empty profile)"] == 1
        assert "users rows" in report.summary()

    def test_what_is_imported_passes_the_check(self, tmp_path):
        load(write(tmp_path))[0].save(tmp_path / "set")
        assert check_folder(tmp_path / "set", now=NOW) == []

    @pytest.mark.parametrize(
        ("form", "text", "time"),
        [
            ("unix", "1748808660", datetime(2025, 6, 1, 20, 11, tzinfo=UTC)),
            ("unix_ms", "1748808660000", datetime(2025, 6, 1, 20, 11, tzinfo=UTC)),
            ("iso", "2025-06-01T20:11:00Z", datetime(2025, 6, 1, 20, 11, tzinfo=UTC)),
            ("%d.%m.%Y %H:%M %z", "01.06.2025 22:11 +0200", datetime(2025, 6, 1, 20, 11, tzinfo=UTC)),
            ("order", "41", 41),
        ],
    )
    def test_times_of_all_formats(self, tmp_path, form, text, time):
        mapping = MAPPING.replace('zone = "Europe/Berlin"', f'format = "{form}"')
        data, _ = load(write(tmp_path, mapping, log_csv=f"customer,ts,q,skus,clicks\n7,{text},case,1,1\n"))
        assert data.searches[0].time == time

    def test_without_a_time_the_order_of_the_rows_counts(self, tmp_path):
        mapping = "\n".join(line for line in MAPPING.splitlines() if not line.startswith("time"))
        data, _ = load(write(tmp_path, mapping))
        assert [s.time for s in data.searches] == [2, 3]

    def test_parquet_and_json_lists_need_no_separator(self, tmp_path):
        mapping = MAPPING.replace("log.csv", "log.parquet").replace(', split = ","', "")
        folder = write(tmp_path, mapping)
        rows = [{"customer": 7, "ts": datetime(2025, 1, 1, tzinfo=UTC), "q": "case", "skus": [1, 2], "clicks": [1]}]
        pl.DataFrame(rows).write_parquet(folder / "log.parquet")
        data, _ = load(folder)
        assert (data.searches[0].shown, data.searches[0].clicked) == (("1", "2"), ("1",))

    @pytest.mark.parametrize("split", ["", ', split = ","'])
    def test_a_list_in_json_needs_no_separator_and_minds_none(self, tmp_path, split):
        cells = 'customer,ts,q,skus,clicks\n7,2025-06-01T20:11:00Z,case,"[""1"", ""2""]",[2]\n7,2025-06-02,case,,[]\n'
        mapping = MAPPING.replace(', split = ","', split)
        rows = [{"customer": 7, "ts": "2025-06-01", "q": "case", "skus": '["1", "2"]', "clicks": "[2]"}]
        data, _ = load(write(tmp_path, mapping, log_csv=cells))
        assert [(s.shown, s.clicked) for s in data.searches] == [(("1", "2"), ("2",)), ((), ())]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        data, _ = load(write(tmp_path, mapping.replace("log.csv", "log.jsonl"), log_jsonl=lines))
        assert [(s.shown, s.clicked) for s in data.searches] == [(("1", "2"), ("2",))]

    def test_a_category_may_begin_with_a_bracket(self, tmp_path):
        data, _ = load(write(tmp_path, products_csv=PRODUCTS.replace("Phones > Cases", "[Sale] > Cases")))
        assert data.catalogue[0].category == ("[Sale]", "Cases")

    def test_cells_may_stand_between_semicolons(self, tmp_path):
        mapping = MAPPING.replace('file = "products.csv"', 'file = "products.csv"\ndelimiter = ";"')
        folder = write(tmp_path, mapping, products_csv="\ufeff" + PRODUCTS.replace("&amp;", "&").replace(",", ";"))
        assert load(folder)[0].catalogue[0].price == 5.5

    @pytest.mark.parametrize(("other", "written"), [(";", ";"), ("\t", r"\t"), ("|", "|")])
    def test_another_delimiter_is_named_with_what_to_write(self, tmp_path, other, written):
        with pytest.raises(DataError, match=r"products\.csv:1: the header is one cell, 'sku") as error:
            load(write(tmp_path, products_csv=PRODUCTS.replace("&amp;", "&").replace(",", other)))
        assert f'write delimiter = "{written}" in the mapping' in str(error.value)

    def test_sales_of_the_source_are_kept(self, tmp_path):
        mapping = MAPPING.replace('price = "price"', 'sales = "price"')
        assert load(write(tmp_path, mapping))[0].catalogue[0].sales == 5.5


class TestLongLogs:
    MAPPING = """
[items]
file = "products.csv"
item_id = "sku"
title = "name"
[searches]
file = "views.jsonl"
search_id = "request"
user_id = "user"
time = { column = "at", format = "order" }
query = "q"
item = "sku"
position = "rank"
clicked = "click"
bought = "order"
"""

    def rows(self, **change: object) -> str:
        view = {"request": "r1", "user": "u", "at": 5, "q": "case", "order": 0}
        views = [view | {"sku": 1, "rank": 2, "click": "true"}, view | {"sku": 2, "rank": 1, "click": 0, **change}]
        return "".join(json.dumps(v) + "\n" for v in views)

    def test_rows_of_one_request_are_one_search_by_position(self, tmp_path):
        data, _ = load(write(tmp_path, self.MAPPING, views_jsonl=self.rows(order=1)))
        assert data.searches == (
            Search(search_id="r1", user_id="u", time=5, query="case", shown=("2", "1"), clicked=("1",), bought=("2",)),
        )

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"q": "other"}, r"views\.jsonl:2: search 'r1' has another user or query than in line 1"),
            ({"click": "maybe"}, r"views\.jsonl:2:click: clicked = 'maybe': yes or no"),
            ({"rank": "first"}, r"views\.jsonl:2:rank: position = 'first': a number"),
            ({"sku": ""}, r"views\.jsonl:2:sku: the shown item is empty"),
        ],
    )
    def test_broken_rows_are_named(self, tmp_path, change, message):
        with pytest.raises(DataError, match=message):
            load(write(tmp_path, self.MAPPING, views_jsonl=self.rows(**change)))


class TestBrokenRows:
    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({"products_csv": PRODUCTS + "3,,x,,,\n"}, r"products\.csv:4:name: title is empty.*\[empty-title\]"),
            ({"products_csv": PRODUCTS + "3,x,,,-5,\n"}, r"products\.csv:4:price: price = -5\.0.*\[bad-price\]"),
            ({"products_csv": PRODUCTS + '3,x,,,"¥1,299",\n'}, r"products\.csv:4:price: price = '¥1,299'"),
            ({"products_csv": PRODUCTS + "1,x,,,,\n"}, r"products\.csv:4:sku: item_id '1' stands in line 2 already"),
            ({"products_csv": PRODUCTS + "3,x\n"}, r"products\.csv:4: 2 cells where the header has 6"),
            (
                {"customers_jsonl": '{"Id": 7}'},
                r"customers\.jsonl:1:id: user_id is empty; the row has no 'id', it has Id\.",
            ),
            ({"customers_jsonl": CUSTOMERS + "{broken\n"}, r"customers\.jsonl:2:2: not JSON"),
            ({"log_csv": LOG + "7,noon,case,1,1\n"}, r"log\.csv:4:ts: time = 'noon' does not fit the format 'iso'"),
            ({"log_csv": LOG + "7,2035-01-01,case,1,1\n"}, r"log\.csv:4:ts: time .* lies in the future"),
            ({"log_csv": LOG + "7,2025-01-01,case,['1'],1\n"}, r"log\.csv:4:skus: shown = .*: a list as text that is"),
            ({"log_csv": LOG + "7,2025-01-01,case,1,['1' '2']\n"}, r"log\.csv:4:clicks: clicked = .*\[list-as-text\]"),
            ({"products_csv": PRODUCTS + "3,x,,['A'],,\n"}, r"products\.csv:4:path: category = .*: a list as text"),
            ({"log_csv": LOG + "7,2025-01-01,,1,1\n"}, r"log\.csv:4:q: query is empty"),
        ],
    )
    def test_the_first_one_stops_with_its_place_rule_and_a_right_row(self, tmp_path, files, message):
        with pytest.raises(DataError, match=message) as error:
            load(write(tmp_path, **files))
        assert "a right row: {" in str(error.value)

    def test_skip_counts_them_up_to_a_limit(self, tmp_path):
        folder = write(tmp_path, products_csv=PRODUCTS + "3,,x,,,\n4,,x,,,\n")
        data, report = load(folder, on_error="skip")
        assert len(data.catalogue) == 2 and report.dropped["items rows: empty-title"] == 2
        with pytest.raises(DataError, match=r"products\.csv:5:name.*\nmore than --max-errors 1 broken rows in .*\.csv"):
            load(folder, on_error="skip", max_errors=1)

    def test_a_failure_that_comes_of_skipped_rows_says_so(self, tmp_path):
        folder = write(tmp_path, products_csv=PRODUCTS.replace("Phones,,", "Phones,-5,"))
        with pytest.raises(DataError, match="not in the catalogue") as error:
            load(folder, on_error="skip")
        assert "\n1 broken rows of items were skipped before; the first: " in str(error.value)
        assert "products.csv:3:price: price = -5.0" in str(error.value)

    @pytest.mark.parametrize(
        ("rest", "message"), [(b'3,"x"y,,,,', "4: not CSV"), (b"3,\xff,,,,", r"4:3: not UTF-8 \(byte 0xff\)")]
    )
    def test_skip_does_not_lose_the_rest_of_a_file(self, tmp_path, rest, message):
        folder = write(tmp_path)
        (folder / "products.csv").write_bytes(PRODUCTS.encode() + rest + b"\n4,y,,,,\n")
        with pytest.raises(DataError, match=rf"products\.csv:{message}"):
            load(folder, on_error="skip")

    def test_a_repeated_search_is_named_with_both_lines_or_skipped(self, tmp_path):
        mapping = MAPPING.replace('query = "q"', 'query = "q"\nsearch_id = "customer"')
        folder = write(tmp_path, mapping, log_csv=LOG + "7,2025-06-02,again,1,\n")
        with pytest.raises(
            DataError, match=r"log\.csv:4:customer: search_id '7' stands in line 2 already.*\[duplicate\]"
        ):
            load(folder)
        data, report = load(folder, on_error="skip")
        assert [s.query for s in data.searches] == ["case", "phone"]
        assert report.dropped["searches rows: duplicate"] == 1

    @pytest.mark.parametrize(("policy", "title"), [("first", "Red & round"), ("last", "Again")])
    def test_a_repeated_item_by_choice(self, tmp_path, policy, title):
        data, report = load(write(tmp_path, products_csv=PRODUCTS + "1,Again,,,,\n"), duplicates=policy)
        assert data.catalogue[0].title == title and len(data.catalogue) == 2
        assert report.dropped[f"items rows: repeated item_id, {policy} kept"] == 1

    def test_a_naive_time_needs_a_zone(self, tmp_path):
        with pytest.raises(DataError, match=r'log\.csv:2:ts: time 2025-06-01T20:11:00 has no zone.* zone = "Eur'):
            load(write(tmp_path, MAPPING.replace(', zone = "Europe/Berlin"', "")))

    @pytest.mark.parametrize("number", ["100000000000000000000", "-9223372036854775808", "9" * 5_000, "1.5"])
    def test_an_order_number_that_64_bits_do_not_hold_is_named(self, tmp_path, number):
        folder = write(tmp_path, ORDERED, log_csv=f"customer,ts,q,skus,clicks\n7,{number},case,1,1\n")
        with pytest.raises(
            DataError, match=r"log\.csv:2:ts: time = .* format 'order'\. Write e\.g\. 17 \(at most 18 dig"
        ):
            load(folder)

    def test_a_missing_column_names_the_nearest(self, tmp_path):
        with pytest.raises(DataError, match=r"products\.csv:1: there is no column 'nmae'.*did you mean 'name'"):
            load(write(tmp_path, MAPPING.replace('"name"', '"nmae"')))

    def test_a_column_that_no_row_of_json_lines_has_names_the_nearest(self, tmp_path):
        rows = [{"customer": 7, "ts": "2025-06-01T20:11:00Z", "q": "case", "skus": ["1"]} for _ in range(2)]
        rows[1]["Klicks"] = ["1"]
        mapping = MAPPING.replace("log.csv", "log.jsonl").replace('"clicks"', '"Clicks"')
        folder = write(tmp_path, mapping, log_jsonl="".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(DataError, match=r"log\.jsonl: no row has a column 'Clicks' \(.*did you mean 'Klicks'\?"):
            load(folder)
        (folder / "mapping.toml").write_text(mapping.replace('"Clicks"', '"Klicks"'))
        assert [s.clicked for s in load(folder)[0].searches] == [(), ("1",)]

    def test_columns_are_checked_where_the_first_row_is_broken(self, tmp_path):
        folder = write(tmp_path, log_csv=LOG.replace("clicks", "klicks").replace("\n", "\nbroken\n", 1))
        with pytest.raises(DataError, match=r"log\.csv:1: there is no column 'clicks'.*did you mean 'klicks'"):
            load(folder, on_error="skip")

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(DataError, match=r"gone\.csv: no such file"):
            load(write(tmp_path, MAPPING.replace("log.csv", "gone.csv")))

    def test_an_empty_catalogue_is_refused(self, tmp_path):
        with pytest.raises(DataError, match=r"products\.csv: the catalogue is empty"):
            load(write(tmp_path, products_csv="sku,name,maker,path,price,colour\n"))

    def test_a_long_title_is_cut_and_counted(self, tmp_path):
        data, report = load(write(tmp_path, products_csv=PRODUCTS + f"3,{'x' * 100_000},,,,\n"))
        assert len(data.catalogue[2].title) == 2_000
        assert report.changed["titles: cut to 2,000 characters"] == 1


class TestMapping:
    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("[items]", "[itmes]", "unknown key 'itmes'; did you mean items?"),
            ("brand =", "brnad =", "unknown key 'brnad'; did you mean brand?"),
            ('title = "name"', "", 'needs title = "<column>"'),
            ("split = ','", "", None),
            ('"Europe/Berlin"', '"Mars/Olympus"', "'Mars/Olympus' is no time zone"),
            ('split = ">"', 'split = ""', 'mapping.toml: [items] category: split = "" separates nothing'),
            ('file = "products.csv"', 'file = "products.csv"\ndelimiter = ";;"', "delimiter = ';;': write one"),
            ('file = "log.csv"', 'file = "log.jsonl"\ndelimiter = ";"', "log.jsonl has no cells; leave it out"),
            ('zone = "Europe/Berlin"', 'format = "dd.mm.yyyy"', "[searches] time: format = 'dd.mm.yyyy' is no format"),
            ('zone = "Europe/Berlin"', 'format = "dd.mm.yyyy"', "%d.%m.%Y"),
            ('zone = "Europe/Berlin"', 'format = "%Q"', "format = '%Q' is no format of times: 'Q' is a bad directive"),
            ('zone = "Europe/Berlin"', 'format = "unixms"', "did you mean unix_ms?"),
            ('split = ">"', 'spilt = ">"', "unknown key 'spilt'; did you mean split?"),
            ('"sku"', "3", "write \"column\" or"),
            ('["colour"]', "3", "write a list of columns"),
            ('"products.csv"', '"../products.csv"', "name a file inside the source folder"),
            ('file = "products.csv"', "", 'needs file = "..."'),
            ('query = "q"', 'query = "q"\nitem = "x"', "so needs search_id"),
            ("[items]", "[items", "not valid TOML"),
        ],
    )  # fmt: skip
    def test_a_mistake_is_named_with_what_to_write(self, tmp_path, old, new, message):
        folder = write(tmp_path, MAPPING.replace(old, new))
        if message is None:
            assert load(folder)
            return
        with pytest.raises(ConfigError) as error:
            load(folder)
        assert message in str(error.value) and "mapping.toml" in str(error.value)

    def test_a_byte_order_mark_is_no_part_of_it(self, tmp_path):
        folder = write(tmp_path)
        (folder / "mapping.toml").write_text(MAPPING, encoding="utf-8-sig")
        assert len(load(folder)[0].catalogue) == 2

    def test_another_encoding_is_named_with_its_line(self, tmp_path):
        folder = write(tmp_path)
        (folder / "mapping.toml").write_text(MAPPING + "# Größe\n", encoding="latin-1")
        line = MAPPING.count("\n") + 1
        with pytest.raises(ConfigError, match=rf"mapping\.toml:{line}: not UTF-8 \(byte 0xf6\): save it as UTF-8"):
            load(folder)

    def test_a_mapping_may_lie_elsewhere(self, tmp_path):
        folder = write(tmp_path)
        (tmp_path / "m.toml").write_text(MAPPING)
        (folder / "mapping.toml").unlink()
        assert len(load(folder, mapping=tmp_path / "m.toml")[0].catalogue) == 2
        assert len(load(tmp_path / "m.toml")[0].catalogue) == 2
        with pytest.raises(ConfigError, match="cannot be read"):
            load(folder)

    def test_unknown_items_follow_the_policy(self, tmp_path):
        folder = write(tmp_path, log_csv='customer,ts,q,skus,clicks\n7,2025-06-01,case,"1,9",9\n')
        with pytest.raises(DataError, match=r"log\.csv:2: 1 items \(1 mentions.*first: '9' in search 's2'"):
            load(folder)
        assert load(folder, unknown_items="drop")[0].searches == ()
        assert load(folder, unknown_items="text")[0].searches[0].clicked == ("9",)
