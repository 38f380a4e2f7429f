"""Runs on the user's own records: from import to search, and what is refused before anything is trained."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from shop_files import HOSTILE, write_shop
from tiny_run import Interrupt, run_tiny, tiny_settings

from crsearch.config import SplitConfig
from crsearch.errors import ConfigError, DataError, ModelError, RunError
from crsearch.pipeline.again import evaluate_again, with_searchers
from crsearch.pipeline.run import run
from crsearch.records.importers import IMPORTERS
from crsearch.records.store import Dataset
from crsearch.serve.contract import SearchRequest
from crsearch.serve.once import search_once

OWN = "distill.teacher=template", "sft.samples=2"


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    return write_shop(tmp_path_factory.mktemp("shop") / "logs")


@pytest.fixture(scope="module")
def records(shop, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("records") / "mine"
    imported(shop, SplitConfig(test=0.2, valid=0.1)).save(folder)
    return folder


@pytest.fixture(scope="module")
def own_run(records, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "own"
    run_tiny(out, f"data={records}", *OWN)
    return out


def imported(shop: Path, split: SplitConfig) -> Dataset:
    dataset, _ = IMPORTERS["tables"](shop, split)
    return dataset


def test_a_title_full_of_control_tokens_is_harmless(own_run):
    found = json.loads((own_run / "results.json").read_text())
    assert found["invalid_items"] == 0
    assert "ceiling" not in found
    items = search_once(own_run, SearchRequest(query=HOSTILE, user_id="u1", top_k=20, mode="think")).items
    assert HOSTILE.strip() in {item.title for item in items}
    assert len({item.id for item in items}) == 20


def test_a_run_is_evaluated_on_its_own_copy_of_the_records(own_run, tmp_path, monkeypatch):
    """The source may be gone, or changed, or named relative to another folder."""
    out = Path(shutil.copytree(own_run, tmp_path / "run"))
    text = (out / "settings.toml").read_text()
    (out / "settings.toml").write_text(text.replace(str(with_data(text)), "gone"))
    monkeypatch.chdir(tmp_path)
    found = evaluate_again(out, with_searchers(out, ["popularity-in-query-brand"]))
    assert found["invalid_items"] == 0
    assert with_data((out / "settings.toml").read_text()) == "gone"


def with_data(text: str) -> str:
    return next(line.split('"')[1] for line in text.splitlines() if line.startswith("data ="))


def test_a_run_of_other_records_is_refused_and_left_alone(own_run, records, tmp_path):
    other = Dataset.load(records)
    first = next(iter(other.users.values()))
    users = {**other.users, first.user_id: replace(first, profile={"age": "50+"})}
    replace(other, users=users).save(tmp_path / "other")
    before = (own_run / "manifest.json").read_bytes(), (own_run / "settings.toml").read_bytes()
    with pytest.raises(RunError, match=r"made from other records \(now .*other\)\. Go on with its own.* another --out"):
        run_tiny(own_run, f"data={tmp_path}/other", *OWN, resume=True)
    assert ((own_run / "manifest.json").read_bytes(), (own_run / "settings.toml").read_bytes()) == before


@pytest.mark.parametrize(
    "changes, error, says",
    [
        ((), ConfigError, r'distill\.teacher = "analyst": only the simulated shop has one.*"template"'),
        (("data=/nowhere",), DataError, r"/nowhere/items\.parquet: no such file.*crsearch import"),
        ((*OWN, "model.path=/nowhere"), ModelError, r"/nowhere: no config\.json"),
        ((*OWN, "device=banana"), ConfigError, "device = 'banana': .* Use cpu, or auto"),
        ((*OWN, "evaluate.searchers=['crs','bm52']"), ConfigError, "'bm52' is not one of crs, "),
        ((*OWN, "align.share=0.001"), DataError, r"align\.share = 0\.001 of \d+ training users is nobody"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_trained(records, tmp_path, changes, error, says):
    with pytest.raises(error, match=says):
        run_tiny(tmp_path / "run", f"data={records}", *changes)
    assert not (tmp_path / "run" / "data").exists()


@pytest.mark.parametrize(
    "split, changes, says",
    [
        (SplitConfig(test=0.001, valid=0.3), (), r"a test user: raise split\.test"),
        (SplitConfig(test=0.3, valid=0.001), ("loop.select=valid",), r'a valid user: raise split\.valid.*"last"'),
        (SplitConfig(test=0.98, valid=0.01), (), r"a train user: lower split\.test and split\.valid"),
    ],
)
def test_a_part_without_a_user_is_refused_and_mended_in_the_same_directory(
    shop, records, tmp_path, split, changes, says
):
    imported(shop, split).save(tmp_path / "lopsided")
    with pytest.raises(DataError, match=f"none of the 40 users with a choice is {says}"):
        run_tiny(tmp_path / "run", f"data={tmp_path}/lopsided", *OWN, *changes)
    stop_early(tmp_path / "run", f"data={records}")


def stop_early(out: Path, *changes: str) -> None:
    """Begin a run that gets as far as the first step of training."""

    with pytest.raises(KeyboardInterrupt):
        run(tiny_settings(*OWN, *changes), out, progress=Interrupt("align", 1))


def test_simulated_records_in_a_folder_bring_their_truth_along(tmp_path, tiny_run):
    shutil.copytree(tiny_run / "data", tmp_path / "shop")
    stop_early(tmp_path / "run", f"data={tmp_path}/shop", "distill.teacher=analyst")
    assert (tmp_path / "run/data/truth.parquet").read_bytes() == (tiny_run / "data/truth.parquet").read_bytes()
