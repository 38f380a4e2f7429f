"""docs/settings.md says of every setting what the code says."""

import doctest
from typing import Literal

import make_settings
import pytest
from pages import DOCS, read
from pydantic import BaseModel, Field

from crsearch.config import PRESETS, Settings


def fields(model: type[BaseModel], path: str = "") -> list[tuple[str, str]]:
    """(section, name) of every setting."""
    found = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += fields(inner, f"{path}.{name}" if path else name)
        else:
            found.append((path, name))
    return found


def test_the_page_is_up_to_date():
    assert read(DOCS / "settings.md") == make_settings.settings_page(), "run: python docs/make_settings.py"


@pytest.mark.parametrize(("section", "name"), fields(Settings))
def test_every_setting_stands_in_its_section_with_a_meaning(section, name):
    heading = f"## [{section}]" if section else "## Top of the file"
    part = make_settings.settings_page().split(f"{heading}\n", 1)[1].split("\n## ", 1)[0]
    row = next(line for line in part.splitlines() if line.startswith(f"| `{name}` |"))
    assert len(row.split(" | ")[-1].removesuffix(" |")) > 5


def test_every_preset_is_listed_with_what_it_changes():
    page = make_settings.settings_page().split("## Presets", 1)[1]
    for name in PRESETS:
        assert f"### {name}\n" in page
    paper = page.split("### paper\n", 1)[1].split("###", 1)[0]
    assert "| `rl.reward.layer_weights` | `[0.1, 0.2, 0.2]` | `[0.5, 0.3, 0.2]` |" in paper
    assert "| `rl.reward.prefix_only` | `true` | `false` |" in paper


def test_types_and_ranges_are_said_in_words():
    class Example(BaseModel):
        share: float = Field(default=0.5, gt=0, le=1)
        names: tuple[str, ...] = ()
        three: tuple[float, float, float] = (1.0, 2.0, 3.0)
        mode: Literal["a", "b"] | None = None

    found = Example.model_fields
    assert make_settings.limits(found["share"]) == "> 0, <= 1"
    assert [make_settings.kind(found[n].annotation) for n in ("names", "three", "mode")] == [
        "list of text", "list of 3 numbers", '`"a"`, `"b"` or none',
    ]  # fmt: skip


def test_check_tells_a_stale_page_by_its_exit_code(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make_settings, "TARGET", tmp_path / "settings.md")
    assert make_settings.main(["--check"]) == 1
    assert make_settings.main([]) == 0
    assert make_settings.main(["--check"]) == 0
    assert "up to date" in capsys.readouterr().out


def test_examples_in_the_script_hold():
    assert doctest.testmod(make_settings).failed == 0
