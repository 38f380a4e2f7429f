"""What the pages name exists: files, packages, commands, settings, functions; and their examples run."""

import importlib
import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer.main
from pages import DOCS, PAGES, ROOT, fenced, name_of, read, without_blocks
from pydantic import BaseModel

from crsearch.cli.main import app
from crsearch.config import PRESETS, Settings, load_section, load_settings
from crsearch.pipeline.experiments.lab import BUDGETS
from crsearch.pipeline.systems import SYSTEMS
from crsearch.serve.config import ServeConfig
from crsearch.train.objectives import VARIANTS

SECTIONS = [n for n, f in Settings.model_fields.items() if isinstance(getattr(Settings(), n), BaseModel)]
every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def keys(values: BaseModel, path: str = "") -> set[str]:
    found = set()
    for name in type(values).model_fields:
        found.add(path + name)
        inner = getattr(values, name)
        if isinstance(inner, BaseModel):
            found |= keys(inner, f"{path}{name}.")
    return found


# ---------------------------------------------------------------- names


@every_page
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(read(page))):
        if target.startswith("http"):
            continue
        file, _, heading = target.partition("#")
        found = page.parent / file if file else page
        assert found.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", read(found), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings], target


@every_page
def test_code_that_is_named_exists(page):
    for name in re.findall(r"`(crsearch\.[A-Za-z_.]+[A-Za-z_])[`(]", read(page)):
        if name == "crsearch.json":  # a file
            continue
        found = importlib.import_module("crsearch")
        path = "crsearch"
        for part in name.split(".")[1:]:
            path = f"{path}.{part}"
            # AttributeError or ModuleNotFoundError = the page names what is not there
            found = getattr(found, part) if hasattr(found, part) else importlib.import_module(path)


@every_page
def test_settings_that_are_named_exist(page):
    known = keys(Settings())
    pattern = rf"`((?:{'|'.join(SECTIONS)})\.[a-z_.]+)(?: = [^`]*)?`"
    for name in re.findall(pattern, read(page)):
        assert name in known, name


def test_the_pages_name_systems_presets_and_variants_of_the_code():
    paper, tutorial = read(DOCS / "paper.md"), read(DOCS / "tutorial.md")
    assert all(f"`{name}`" in paper for name in SYSTEMS)
    assert {"grpo", "r-grpo", "dr-grpo", "dapo", "gspo"} == set(VARIANTS)
    assert "paper" in PRESETS
    budgets = re.findall(r"--budget (\w+)", tutorial + read(ROOT / "README.md"))
    assert budgets and set(budgets) <= {*PRESETS, *BUDGETS}  # of demo, of experiment


def test_the_tree_of_the_readme_is_the_tree_of_packages():
    tree = next(b for b in fenced(read(ROOT / "README.md")) if b.startswith("crsearch/\n"))
    listed, parent = set(), ""
    for line in tree.splitlines():
        names = re.match(r"^((?:│   )?(?:[├└]── )?)((?:[\w.]+/?(?:  |$))+)", line)
        assert names, line
        for name in names[2].split():
            if "── " not in names[1]:
                assert (ROOT / name).is_dir(), name
            elif names[1].startswith("│"):
                listed.add(f"{parent}/{name.strip('/')}")
            elif name.endswith("/"):
                parent = name.strip("/")
                listed.add(parent)
            else:
                assert (ROOT / "crsearch" / name).is_file(), name
    packages = {p.parent.relative_to(ROOT / "crsearch").as_posix() for p in (ROOT / "crsearch").rglob("__init__.py")}
    assert listed == packages - {"."}


def test_decisions_are_numbered_without_gaps_and_say_context_choice_reason_price():
    pages = sorted((DOCS / "decisions").glob("*.md"))
    for number, page in enumerate(pages, 1):
        assert page.name.startswith(f"{number:04d}-")
        text = read(page)
        assert text.startswith(f"# {number:04d}: ")
        places = [text.index(f"**{part}.**") for part in ("Context", "Choice", "Reason", "Price")]
        assert places[:2] == sorted(places[:2]) and places[1] < places[3]


# ---------------------------------------------------------------- numbers


def test_defaults_that_the_pages_quote_are_those_of_the_code():
    page, s = read(DOCS / "paper.md"), Settings()
    strict = load_settings(None, (), {"preset": "paper"})

    def numbers(values):
        return f"({', '.join(f'{v:g}' for v in values)})"

    for sentence in (
        f"| G, K, batch | {s.rl.group_size}, {s.rl.beam}, {s.rl.prompts} contexts |",
        f"| number of rounds | {s.loop.iterations}; {strict.loop.iterations} in the preset `paper`",
        f"| number of traces | {s.distill.users} users,",
        f"greedy, at most {s.decode.think_tokens} tokens",
        f"constrained beam of width {s.decode.width};",
        f"| codes per layer | {s.sids.codes} by default;",
        f"an error above {s.sids.max_duplicates} items with equal codes; {s.sids.spare_duplicates} codes stay free",
        f"weight {s.rl.kl:g} by default, {strict.rl.kl:g} in the preset `paper`",
        f"{numbers(s.rl.reward.layer_weights)} and {s.rl.reward.exact_weight:g} for a full match, gated by prefix",
        f"{numbers(strict.rl.reward.layer_weights)} and {strict.rl.reward.exact_weight:g}, not gated",
        f"eps {s.rl.eps:.0e}".replace("e-0", "e-"),
        f"| clip | {s.rl.clip_low:g} on both sides",
        f"Of {s.sft.samples} sampled".lower(),
    ):
        assert sentence in page, sentence
    assert s.rl.clip_low == s.rl.clip_high and s.align.share == 0.5 and s.distill.repeats == 2
    assert s.rl.reward.prefix_only and not strict.rl.reward.prefix_only and s.rl.reward.length == 0
    assert s.rl.sid_token_loss == "positive" and strict.rl.sid_token_loss == "all" and strict.sft.samples == 1
    assert strict.rl.anchor_item_words == strict.rl.anchor_direct == strict.rl.anchor_items == 0


# ---------------------------------------------------------------- examples


def command_lines(page: Path) -> list[str]:
    return [line for block in fenced(read(page)) for line in block.splitlines() if line.startswith("crsearch ")]


@pytest.mark.parametrize("page", [p for p in PAGES if command_lines(p)], ids=name_of)
def test_commands_are_understood_by_the_command_line(page):
    """Parsed by the real parser: a command, an option or a choice that is not there raises."""
    group = typer.main.get_command(app)
    for line in command_lines(page):
        name, *arguments = shlex.split(line, comments=True)[1:]
        command = group.commands[name]
        while hasattr(command, "commands"):  # a group, e.g. crsearch items add
            name, *arguments = arguments
            command = command.commands[name]
        given = command.make_context(name, arguments).params
        if given.get("set_") and name == "serve":
            load_section(ServeConfig, None, given["set_"])
        elif given.get("set_"):
            load_settings(None, given["set_"])


def test_every_command_is_written_about():
    text = "".join(map(read, PAGES))
    commands = typer.main.get_command(app).commands
    assert [name for name in commands if f"crsearch {name}" not in text] == []
    assert [name for name in commands if f"`{name}`" not in read(ROOT / "CHANGELOG.md")] == []


@pytest.mark.parametrize("page", [p for p in PAGES if fenced(read(p), "toml")], ids=name_of)
def test_settings_files_are_accepted(page, tmp_path):
    for number, block in enumerate(fenced(read(page), "toml")):
        if "items" not in tomllib.loads(block):  # a mapping of an import has an [items] section
            file = tmp_path / f"{number}.toml"
            file.write_text(block, encoding="utf-8")
            load_settings(file)


def test_the_example_of_the_readme_runs():
    (example,) = fenced(read(ROOT / "README.md"), "python")
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    rows_BK, scores_BK = names["rows_BK"], names["scores_BK"]
    assert rows_BK.shape == scores_BK.shape == (2, 3)
    assert 1 not in rows_BK and sorted(rows_BK[0].tolist()) == [0, 2, 3]


def test_the_share_in_decision_9_is_printed_by_its_script(capsys):
    page = read(DOCS / "decisions" / "0009-item-text-as-it-is.md")
    (example,) = fenced(page, "python")
    exec(compile(example, "0009", "exec"), {})
    assert f"for {capsys.readouterr().out.strip()} of the items it is mostly of their own category" in page


def test_the_mapping_of_the_how_to_imports_a_log(tmp_path):
    from crsearch.config import SplitConfig
    from crsearch.records.importers import import_tables

    mapping = next(b for b in fenced(read(DOCS / "howto" / "own-logs.md"), "toml") if "[items]" in b)
    (tmp_path / "mapping.toml").write_text(mapping, encoding="utf-8")
    (tmp_path / "products.csv").write_text(
        "sku,name,maker,path,price,colour\na1,Red case,Acme,Phones > Cases,9.5,red\n"
    )
    (tmp_path / "customers.jsonl").write_text('{"id": "u1", "age_band": "25-34", "town": "Ulm"}\n')
    (tmp_path / "log.csv").write_text(
        "customer,ts,q,request,sku,rank,is_click,is_order\nu1,2025-06-01T20:11:00,case,s1,a1,1,1,0\n"
    )
    data, _ = import_tables(tmp_path / "mapping.toml", SplitConfig())
    (search,), (item,) = data.searches, data.catalogue
    assert (item.category, item.attributes) == (("Phones", "Cases"), {"colour": "red"})
    assert (search.clicked, search.bought, search.time.hour) == (("a1",), (), 18)
    assert data.users["u1"].profile == {"age": "25-34", "city": "Ulm"}


def test_the_searcher_of_the_how_to_is_measured(tmp_path):
    from crsearch.config import SimulateConfig, SplitConfig
    from crsearch.records.simulator import simulate

    (example,) = fenced(read(DOCS / "howto" / "own-model.md"), "python")
    names: dict[str, object] = {}
    exec(compile(example, "own-model.md", "exec"), names)
    shop = simulate(SimulateConfig(users=60, items=40, departments=1, brands=2), SplitConfig(test=0.5), seed=0)
    shop.save(tmp_path)
    found = names["measure"](tmp_path)
    first_ten = set(shop.dataset.catalogue.ids[:10])
    targets = shop.truth.filter(pl.col("part") == "test")["target"].to_list()
    assert found["HR@10"]["mean"] == pytest.approx(np.mean([t in first_ten for t in targets]))
