"""What a user can get wrong: exit code 2, a message with place and remedy, no traceback, nothing half-written."""

import json
import os
from pathlib import Path

import polars as pl
import pytest
from shop_files import MAPPING, write_lines, write_shop
from tiny_run import tiny_arguments


@pytest.fixture
def refused(crsearch, tmp_path, monkeypatch):
    """Runs a command line in an empty folder, asserts exit code 2 and an empty standard output; the message."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def check(*arguments: object) -> str:
        before = contents(tmp_path)
        done = crsearch(*arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert "Traceback" not in done.stderr
        assert contents(tmp_path) == before, "something was written"
        return str(done.stderr)

    return check


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


# -- the command line and the settings --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "arguments, says",
    [
        ("serch", "No such command 'serch'. Did you mean 'search', '"),
        ("run --ou x", "No such option: --ou (Possible options: --json, --out, --redo)"),
        ("search", "Missing argument 'RUN'."),
        ("demo --budget huge", "'huge' is not one of 'smoke', 'demo', 'small'"),
        ("run --set sids.codez=3", "ConfigError: settings: unknown setting sids.codez; did you mean sids.codes?"),
        ("run --set codes=3", "unknown setting codes; did you mean sids.codes?"),
        ("run --set sids.codes=many", "ConfigError: settings: sids.codes = 'many': input should be a valid integer"),
        ("run --set sids.codes=1", "sids.codes = 1: input should be greater than or equal to 2"),
        ("run --set seed=true", "seed = True: input should be a valid integer"),
        ("run --set sids=3", "sids = 3: a section; set what is in it, e.g. sids."),
        ("run --set sids.codes", "--set sids.codes: write section.key=value, e.g. --set sids.codes=512"),
        ("run --set .codes=3", "--set .codes=3: write section.key=value"),
        ("run --set preset=recomended", "preset = 'recomended': there are recommended, paper, "),
        ("run --set preset=recomended", "did you mean recommended?"),
        ("run --set model.heads=3", "model.heads = 3 is no multiple of model.kv_heads = 2"),
        ("run --set sids.layers=2", "rl.reward.layer_weights has 3 weights, but sids.layers = 2"),
        ("run --set distill.teacher=openai", 'distill.teacher = "openai" needs distill.url, e.g. "http://127.0.0.1'),
        ("run none.toml", "ConfigError: none.toml: cannot read the settings: No such file or directory"),
        ("run .", "ConfigError: .: cannot read the settings: Is a directory"),
        ("run --set data=none", "DataError: none/items.parquet: no such file. A data set is a folder with items"),
        ("run --set device=banana", "ConfigError: device = 'banana'"),
        ('run --set evaluate.searchers=["bm52"]', "ConfigError: evaluate.searchers: 'bm52' is not one of crs, "),
        ("simulate out --set simulate.items=3", "simulate.items = 3: input should be greater than or equal to 8"),
        ("search none case", "RunError: none: no such run directory. Make one: crsearch demo --out none"),
        ("search . case", "RunError: .: not a run directory (no manifest.json in it); give the folder of a run"),
        ("report none", "RunError: none: no such run directory."),
        ("evaluate none", "RunError: none: no such run directory."),
        ("check none", "none: there is no such folder. Give the folder of the tables items, users, searches, split"),
        ("check .", ".: there is no items table (items.parquet, .jsonl, "),
        ("import hem none out", "DataError: none: either items.jsonl and interactions.csv, or one reviews_<Category>"),
        ("import kuaisearch none out", "none"),
        ("import amazon none out", "import amazon: the sources are amazon2023, completejourney, "),
        ("import tables none out", "ConfigError: none/mapping.toml: the mapping file cannot be read"),
        ("import tables none out", "item_id = "),
        ("import hem none out --duplicates first", "--duplicates and --on-error are for tables; leave them out"),
    ],
)
def test_a_wrong_command_line_is_explained(refused, arguments, says):
    assert says in refused(*arguments.split())


def test_all_unknown_settings_of_a_file_are_named_with_the_file(refused, tmp_path):
    (tmp_path / "my.toml").write_text("[sids]\ncodez = 3\n[rl]\nstepz = 1\n")
    told = refused("run", tmp_path / "my.toml").splitlines()
    assert told == [
        f"ConfigError: {tmp_path}/my.toml: unknown setting sids.codez; did you mean sids.codes?",
        f"{tmp_path}/my.toml: unknown setting rl.stepz; did you mean rl.steps?",
    ]


def test_settings_that_are_not_toml_are_named_with_the_line(refused, tmp_path):
    (tmp_path / "my.toml").write_text("[sids\ncodes = 3\n")
    assert f"ConfigError: {tmp_path}/my.toml: not valid TOML: " in refused("run", tmp_path / "my.toml")
    (tmp_path / "my.toml").write_bytes(b'data = "caf\xe9"\n')
    told = refused("run", tmp_path / "my.toml")
    assert f"ConfigError: {tmp_path}/my.toml: not UTF-8 text (" in told and "save it as UTF-8" in told


# -- a finished run ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "arguments, says",
    [
        (
            ["search", "{run}", "case", "--user", "nobody"],
            "DataError: there is no such user: take one of",
        ),
        (["search", "{run}", " "], "DataError: the query is empty"),
        (["search", "{run}", "caf\udce9"], "DataError: query: Input should be a valid string"),
        (["search", "{run}", "case", "--user", ""], "DataError: user_id: String should have at least 1 character"),
        (["search", "{run}", "case", "--place", "x" * 600], "DataError: place: String should have at most 512 char"),
        (["search", "{run}", "case", "-k", "0"], "Invalid value for '-k'"),
        (["evaluate", "{run}", "--searcher", "bm52"], "'bm52' is not one of crs, "),
        (
            ["evaluate", "{run}", "--run", "none.trec"],
            "none.trec: no such run file; its lines are: search_id Q0 item_id",
        ),
        (["evaluate", "{run}", "--run", "{run}/settings.toml"], "settings.toml:1: "),
        (["evaluate", "{run}", "--run", "x", "--searcher", "crs"], "a run file goes without --searcher and --data"),
        (["run", "--out", "{run}"], "RunError: {run}: holds a run already. Go on with --resume, or choose another"),
        (["run", "--out", "{run}", "--resume"], "{run}: this run was made from other settings (simulate, split, seed)"),
        (["run", "--out", "{run}", "--resume", "--redo", "sft7", *tiny_arguments()], "--redo sft7: no such stage"),
        (["run", "--out", "{run}", "--resume", "--threads", "3", *tiny_arguments()], "was made with 1 threads, now 3"),
    ],
)
def test_a_finished_run_held_wrong_is_explained(refused, tiny_run, arguments, says):
    before = contents(tiny_run)
    assert says.format(run=tiny_run) in refused(*(a.format(run=tiny_run) for a in arguments))
    assert contents(tiny_run) == before


def test_a_run_that_is_not_finished_says_how_to_go_on(refused, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/manifest.json").write_text('{"stages": {}}')
    for command in (["search", tmp_path / "run", "x"], ["evaluate", tmp_path / "run"], ["report", tmp_path / "run"]):
        told = refused(*command)
        assert f"crsearch run {tmp_path}/run/settings.toml --out {tmp_path}/run --resume" in " ".join(told.split())


def test_a_run_in_use_is_refused(refused, tiny_run):
    from crsearch.runs import RunDirectory

    with RunDirectory(tiny_run):
        told = refused("run", "--out", tiny_run, "--resume", *tiny_arguments())
    assert f"RunError: {tiny_run}: in use by process {os.getpid()} on " in told


# -- records ----------------------------------------------------------------------------------------------------------
def edit(file: Path, line: int, **changes: object) -> None:
    """Change fields of one line (from 1) of a JSON-lines file."""
    rows = [json.loads(text) for text in file.read_text().splitlines()]
    rows[line - 1].update(changes)
    write_lines(file, rows)


def unknown_item(shop: Path) -> None:
    edit(shop / "log.jsonl", 7, click="i999", skus="i999,i1")


def broken_line(shop: Path) -> None:
    lines = (shop / "items.jsonl").read_text().splitlines()
    lines[4] = lines[4][:-5]
    (shop / "items.jsonl").write_text("\n".join(lines))


def duplicate_item(shop: Path) -> None:
    edit(shop / "items.jsonl", 9, sku="i2")


def empty_catalogue(shop: Path) -> None:
    (shop / "items.jsonl").write_text("")


def negative_price(shop: Path) -> None:
    edit(shop / "items.jsonl", 3, price=-1)


def not_utf8(shop: Path) -> None:
    (shop / "items.jsonl").write_bytes((shop / "items.jsonl").read_bytes().replace(b"shoe", b"sh\xffe", 1))


@pytest.mark.parametrize(
    "breaks, says",
    [
        (unknown_item, ["1 items (1 mentions in searches)", "first: 'i999' in search 's7'", "--unknown-items drop"]),
        (broken_line, ["items.jsonl:5:62: not JSON: ", "a right row: {"]),
        (duplicate_item, ["items.jsonl:9:sku: item_id 'i2' stands in line 3 already", "--duplicates first or last"]),
        (empty_catalogue, ["the catalogue is empty"]),
        (negative_price, ["items.jsonl:3:price: ", "-1"]),
        (not_utf8, ["items.jsonl:2:", "UTF-8"]),
    ],
)
def test_broken_logs_are_named_with_place_and_remedy(refused, tmp_path, breaks, says):
    shop = write_shop(tmp_path / "shop")
    breaks(shop)
    told = refused("import", "tables", shop, "mine")
    for part in says:
        assert part in told


def test_records_do_not_overwrite_the_logs_they_come_from(refused, tmp_path):
    shop = write_shop(tmp_path / "shop")
    rows = [json.loads(line) for line in (shop / "log.jsonl").read_text().splitlines()]
    pl.DataFrame(rows).write_parquet(shop / "searches.parquet")
    (shop / "mapping.toml").write_text(MAPPING.replace("log.jsonl", "searches.parquet"))
    assert f"{shop}/searches.parquet: this file is read, and the records would ov" in refused(
        "import", "tables", shop, shop
    )
    assert "this file is read" in refused("import", "tables", shop / "mapping.toml", tmp_path / "work/../shop")


def test_queries_do_not_overwrite_the_catalogue_they_search(refused, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/items.parquet").write_bytes(b"")
    told = refused("import", "esci", tmp_path / "none", tmp_path / "a", "--catalogue", tmp_path / "a")
    assert "a/items.parquet: this file is read" in told


@pytest.mark.parametrize("left", ["truth.parquet", "shop.json"])
def test_records_do_not_lie_beside_the_truth_of_a_simulated_shop(refused, tmp_path, left):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / left).write_text("")
    told = refused("import", "tables", write_shop(tmp_path / "shop"), tmp_path / "mine")
    assert f"mine/{left}: belongs to a simulated shop" in told and "choose another folder" in told


def no_search(shop: Path) -> None:
    (shop / "log.jsonl").write_text("")


def no_known_choice(shop: Path) -> None:
    edit(shop / "log.jsonl", 1, click="i999")
    (shop / "log.jsonl").write_text((shop / "log.jsonl").read_text().splitlines()[0] + "\n")


@pytest.mark.parametrize(
    "breaks, says",
    [(no_search, "log.jsonl: there is no search in it"), (no_known_choice, "no search is left, so noth")],
)
def test_a_log_without_searches_is_refused(refused, tmp_path, breaks, says):
    shop = write_shop(tmp_path / "shop")
    breaks(shop)
    assert says in refused("import", "tables", shop, "mine", "--unknown-items", "drop")


def test_records_without_a_choice_are_warned_of(crsearch, tmp_path):
    shop = write_shop(tmp_path / "shop", users=2)
    for line in range(1, 7):
        edit(shop / "log.jsonl", line, click="")
    told = crsearch("import", "tables", shop, tmp_path / "mine")
    assert (told.exit_code, "warning: no search has a choice" in told.stderr) == (0, True)
    told = crsearch("check", tmp_path / "mine")
    assert (told.exit_code, "warning: no search has a click" in told.stderr) == (0, True)


def test_check_of_a_file_says_that_it_is_one(refused, tmp_path):
    (tmp_path / "afile").write_text("")
    assert f"{tmp_path}/afile: this is a file, and records are a folder" in refused("check", tmp_path / "afile")


def test_options_of_another_source_are_refused(refused, tmp_path):
    assert "--catalogue is for esci" in refused("import", "tables", tmp_path, "mine", "--catalogue", "data/shop")
    assert "--no-query is for hem" in refused("import", "tables", tmp_path, "mine", "--no-query")
    assert "are for tables" in refused("import", "esci", tmp_path, "mine", "--on-error", "skip")


def test_the_remedies_work(crsearch, tmp_path):
    shop = write_shop(tmp_path / "shop")
    for breaks in (unknown_item, duplicate_item, negative_price, broken_line):
        breaks(shop)
    options = "--unknown-items", "drop", "--duplicates", "first", "--on-error", "skip"
    assert crsearch("import", "tables", shop, tmp_path / "mine", *options).exit_code == 0
    assert crsearch("check", tmp_path / "mine").exit_code == 0


def test_check_names_every_broken_row(crsearch, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    write_lines(folder / "items.jsonl", [{"item_id": "a", "title": "A"}, {"item_id": "a", "title": "B", "price": -1}])
    write_lines(folder / "users.jsonl", [{"user_id": "u"}])
    searches = [{"search_id": "s", "user_id": "u", "time": 1, "query": "q", "clicked": ["b"]}]
    write_lines(folder / "searches.jsonl", searches)
    done = crsearch("check", folder)
    assert (done.exit_code, done.stdout) == (2, "")
    told = done.stderr.splitlines()
    assert told[-1] == "3 problems"
    assert {line.split(": ")[0].removeprefix(f"{folder}/") for line in told[:-1]} == {
        "items.jsonl:2:price", "items.jsonl:2:item_id", "searches.jsonl:1:clicked",
    }  # fmt: skip
    as_json = crsearch("check", folder, "--json")
    assert as_json.exit_code == 2
    assert len(json.loads(as_json.stdout)["problems"]) == 3


def test_serving_nothing_is_told_before_an_address_is(refused, tmp_path):
    said = refused("serve", tmp_path / "none", "--port", "0")
    assert "RunError" in said and "no such run directory" in said and "http://" not in said
