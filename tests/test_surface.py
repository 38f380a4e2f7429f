"""What a user meets first: light imports, help for everything, layers that hold."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from crsearch.cli.main import app

HEAVY = {
    "torch", "transformers", "tokenizers", "safetensors", "polars", "sklearn", "scipy", "matplotlib", "numpy", "rich",
    "bm25s", "faiss", "rjieba", "httpx2", "jinja2",
}  # fmt: skip

SEEN = "import sys, json; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh process has loaded after ``code``."""
    done = subprocess.run([sys.executable, "-c", f"{code}\n{SEEN}"], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_front_of_a_server_needs_neither_torch_nor_transformers():
    code = (
        "import sys, crsearch.serve.server, crsearch.serve.app, crsearch.serve.apart, crsearch.serve.service\n"
        "assert 'crsearch.report.write' not in sys.modules"
    )
    assert not modules_after(code) & {"torch", "transformers", "sklearn", "scipy", "matplotlib"}


def test_what_decodes_needs_no_transformers():
    found = modules_after("import crsearch.serve.decoding")
    assert "torch" in found and not found & {"transformers", "sklearn", "scipy", "fastapi", "uvicorn"}


def test_a_trie_and_the_files_of_a_model_need_no_torch():
    code = "from crsearch.decode import Trie, TrieMask\nfrom crsearch.models import verify, train_tokenizer"
    assert "torch" not in modules_after(code)


@pytest.mark.parametrize(
    "code",
    [
        "import crsearch",
        "import crsearch.cli.main",
        "from crsearch.cli.main import app; app(['--help'], standalone_mode=False)",
        "from crsearch.cli.main import app; app(['run', '--help'], standalone_mode=False)",
        "from crsearch.cli.main import app; app(['items', 'add', '--help'], standalone_mode=False)",
        "from crsearch.cli.main import app\ntry: app(['--version'])\nexcept SystemExit: pass",
    ],
)
def test_what_must_be_instant_imports_nothing_heavy(code):
    assert HEAVY & modules_after(code) == set()


def test_settings_and_records_need_no_tensor_library():
    code = "import crsearch.config, crsearch.runs, crsearch.records.store, crsearch.evaluate.metrics"
    assert {"torch", "transformers", "sklearn", "matplotlib"} & modules_after(code) == set()


COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_the_commands_are_these():
    assert typer.main.get_command(app).list_commands(None) == [
        "demo", "run", "settings", "evaluate", "search", "experiment", "report", "serve", "doctor", "bench",
        "verify", "simulate", "import", "check", "forget", "items", "feedback",
    ]  # fmt: skip


INNER = [(name, inner) for name, command in COMMANDS.items() for inner in getattr(command, "commands", ())]


@pytest.mark.parametrize(("name", "inner"), INNER)
def test_every_command_of_a_group_is_explained(name, inner, crsearch_help):
    command = COMMANDS[name].commands[inner]
    assert command.help.endswith(".") and 10 < len(command.short_help) < 60
    assert all(parameter.help for parameter in command.params if parameter.name != "help")
    assert f"{command.short_help}\n" in crsearch_help(name), "the line is cut"
    assert max(map(len, crsearch_help(name, inner).splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_option_is_explained(name, crsearch_help):
    command = COMMANDS[name]
    assert command.help.endswith(".")
    assert 10 < len(command.short_help) < 60
    for parameter in command.params:
        if parameter.name != "help":
            assert parameter.help, f"{name} {parameter.name}"
    assert f"  {name} " in crsearch_help()
    assert f"{command.short_help}\n" in crsearch_help(), "the line is cut"
    for page in (crsearch_help(), crsearch_help(name)):
        assert max(map(len, page.splitlines())) <= 80


@pytest.fixture
def crsearch_help():
    from typer.testing import CliRunner

    def show(*command: str) -> str:
        return CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).stdout

    return show


def test_data_flows_one_way():
    """The import contract of pyproject.toml."""
    from importlinter.cli import lint_imports

    root = Path(__file__).parent.parent
    assert lint_imports(config_filename=str(root / "pyproject.toml"), no_cache=True) == 0
