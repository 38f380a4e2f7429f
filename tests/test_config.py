"""Settings: presets, files, ``--set``; every field explained, everything wrong refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from crsearch.config import PRESETS, Settings, load_settings, merge, parse_assignment, to_toml
from crsearch.errors import ConfigError


def fields(section: type[BaseModel], prefix: str = "") -> list[tuple[str, str | None]]:
    """(dotted name, meaning) of every setting."""
    found = []
    for name, info in section.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found.append((prefix + name, info.annotation.__doc__))
            found += fields(info.annotation, f"{prefix}{name}.")
        else:
            found.append((prefix + name, info.description))
    return found


@pytest.mark.parametrize("name, meaning", fields(Settings))
def test_every_setting_says_what_it_means(name, meaning):
    assert meaning and meaning.strip().endswith((".", ")", "``")), name


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("explained", [False, True])
def test_settings_survive_a_file(preset, explained, tmp_path):
    settings = load_settings(None, [f"preset={preset}"])
    file = tmp_path / "settings.toml"
    file.write_text(to_toml(settings, explained=explained), encoding="utf-8")
    assert load_settings(file) == settings


@pytest.mark.parametrize("preset", PRESETS)
def test_no_preset_sets_what_a_file_could_not_unset(preset):
    """A setting that is None has no line in the file; read back, a preset must not fill it."""

    def nones(section: BaseModel) -> set[str]:
        out = set()
        for name in type(section).model_fields:
            value = getattr(section, name)
            if isinstance(value, BaseModel):
                out |= {f"{name}.{inner}" for inner in nones(value)}
            elif value is None:
                out.add(name)
        return out

    assert nones(load_settings(None, [f"preset={preset}"])) == nones(Settings())


@settings(deadline=None)  # other work on the machine
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_a_file(text):
    import tomllib

    assert tomllib.loads(to_toml(Settings(data=text)))["data"] == text


def test_later_sources_win(tmp_path):
    file = tmp_path / "my.toml"
    file.write_text('preset = "smoke"\n[sids]\ncodes = 5\n[rl]\nsteps = 5\n')
    settings = load_settings(file, ["rl.steps=6", "rl.steps=7"], {"preset": "demo", "seed": 3})
    assert settings.preset == "smoke"
    assert settings.model.width == load_settings(None, ["preset=smoke"]).model.width
    assert (settings.sids.codes, settings.rl.steps, settings.seed) == (5, 7, 3)


def test_a_file_that_begins_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "my.toml").write_text("seed = 3\n", encoding="utf-8-sig")
    assert load_settings(tmp_path / "my.toml").seed == 3


@pytest.mark.parametrize(
    "text, value",
    [
        ("a.b=3", {"a": {"b": 3}}),
        ("a=true", {"a": True}),
        ("a=word", {"a": "word"}),
        ("a=/data/my shop", {"a": "/data/my shop"}),
        ('a="3"', {"a": "3"}),
        ("a=[1, 2]", {"a": [1, 2]}),
        ("a=b=c", {"a": "b=c"}),
        ("a=", {"a": ""}),
    ],
)
def test_assignments(text, value):
    assert parse_assignment(text) == value


@pytest.mark.parametrize("text", ["", "a", "=3", ".a=3", "a..b=3", "a.=3"])
def test_broken_assignments_are_refused(text):
    with pytest.raises(ConfigError, match=r"write section\.key=value"):
        parse_assignment(text)


def test_merge_leaves_its_arguments_alone():
    base = {"a": {"b": 1}}
    assert merge(base, {"a": {"c": 2}, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}
    assert base == {"a": {"b": 1}}


@pytest.mark.parametrize(
    "change",
    [
        "seed=-1", "seed=1.5", "threads=-1", "threads=9999", "processes=9999", "checkpoint_seconds=-1",
        "sids.codes=1", "sids.layers=0",
        "rl.group_size=1", "rl.temperature=0", "decode.width=0", "decode.think_tokens=0", "evaluate.bootstrap=99",
        "split.test=0", "split.test=1",
        "simulate.users=3", "simulate.no_click=1.1", "model.vocabulary=10", "align.share=0", "align.optim.lr=0",
        "rl.aggregate=best", "model.precision=fp8", "evaluate.searchers=crs", "rl.reward.layer_weights=[1.0]",
        'sids.codes="64"', "loop.rl=1",
    ],
)  # fmt: skip
def test_values_out_of_range_or_of_another_type_are_refused(change):
    with pytest.raises(ConfigError, match=change.split("=")[0].split(".")[-1]):
        load_settings(None, [change])


def test_whole_numbers_are_numbers():
    assert load_settings(None, ["rl.temperature=1"]).rl.temperature == 1.0


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        Settings().seed = 1  # type: ignore[misc]


def test_the_paper_preset_is_the_paper():
    """One example per group of choices that the paper prints."""
    paper = load_settings(None, ["preset=paper"])
    assert paper.context.max_events == 10
    assert paper.sids.layers == 3
    assert not paper.rl.reward.prefix_only
    assert paper.rl.reward.length == 1
    assert paper.rl.sid_token_loss == "all"
