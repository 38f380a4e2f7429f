"""Settings from a preset, a file and ``--set``; unknown keys are refused with the nearest known one."""

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from crsearch.config.nested import Nested, merge
from crsearch.config.presets import PRESETS
from crsearch.config.sections import Section, Settings
from crsearch.errors import ConfigError


def parse_assignment(text: str) -> Nested:
    """``sids.codes=512`` as a nested mapping; the value is TOML, a bare word is a string.

    Raises:
        ConfigError: there is no ``=``.

    >>> parse_assignment("sids.codes=512")
    {'sids': {'codes': 512}}
    """
    key, sign, raw = text.partition("=")
    if not sign or not all(part.strip() for part in key.split(".")):
        raise ConfigError(f"--set {text}: write section.key=value, e.g. --set sids.codes=512")
    try:
        value = tomllib.loads(f"v = {raw.strip()}")["v"]
    except tomllib.TOMLDecodeError:
        value = raw.strip()
    out: Nested = {}
    here = out
    *path, last = key.strip().split(".")
    for name in path:
        here = here.setdefault(name, {})
    here[last] = value
    return out


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
    return keys


def _explain(error: ValidationError, origin: str, model: type[BaseModel]) -> str:
    lines = []
    known = _known_keys(model)
    for e in error.errors():
        where = ".".join(str(p) for p in e["loc"])
        if e["type"] == "extra_forbidden":
            near = difflib.get_close_matches(where, known, n=1, cutoff=0.5)
            same_name = [k for k in known if k.split(".")[-1] == where.split(".")[-1]]
            hint = f"; did you mean {(same_name or near)[0]}?" if same_name or near else "; see docs/settings.md"
            lines.append(f"{origin}: unknown setting {where}{hint}")
        elif e["type"] == "value_error":  # settings that do not fit together: the message names them
            lines.append(f"{origin}: {e['msg'].removeprefix('Value error, ')}")
        elif e["type"] == "model_type":
            inside = next(k for k in known if k.startswith(f"{where}."))
            lines.append(f"{origin}: {where} = {e['input']!r}: a section; set what is in it, e.g. {inside}")
        else:
            lines.append(f"{origin}: {where} = {e['input']!r}: {e['msg'][:1].lower()}{e['msg'][1:]}")
    return "\n".join(lines)


def load_settings(path: Path | None = None, overrides: Sequence[str] = (), base: Nested | None = None) -> Settings:
    """Resolve settings: defaults < preset < ``base`` < TOML file < overrides.

    Args:
        path: TOML file, or none.
        overrides: ``section.key=value`` strings, later ones win.
        base: nested values below the file, e.g. of a command.

    Raises:
        ConfigError: unreadable file, unknown setting or preset, wrong type, value out of range.
    """
    given, origin = _given(path, overrides, base)
    name = given.get("preset", "recommended")
    if name not in PRESETS:
        near = difflib.get_close_matches(str(name), PRESETS, n=1, cutoff=0.3)
        raise ConfigError(
            f"{origin}: preset = {name!r}: there are {', '.join(PRESETS)}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    return _checked(Settings, merge(PRESETS[name], {**given, "preset": name}), origin)


AnySection = TypeVar("AnySection", bound=Section)


def load_section(model: type[AnySection], path: Path | None = None, overrides: Sequence[str] = ()) -> AnySection:
    """Settings that are no part of a run: defaults < TOML file < overrides.

    Raises:
        ConfigError: as ``load_settings``.
    """
    given, origin = _given(path, overrides, None)
    return _checked(model, given, origin)


def _given(path: Path | None, overrides: Sequence[str], base: Nested | None) -> tuple[Nested, str]:
    """Values of a base, a file and overrides, and where they came from."""
    given: Nested = dict(base or {})
    if path is not None:
        try:
            given = merge(given, tomllib.loads(path.read_text(encoding="utf-8-sig")))
        except OSError as e:
            raise ConfigError(f"{path}: cannot read the settings: {e.strerror}") from e
        except UnicodeDecodeError as e:
            raise ConfigError(f"{path}: not UTF-8 text ({e.reason} at byte {e.start}): save it as UTF-8") from e
        except tomllib.TOMLDecodeError as e:
            raise ConfigError(f"{path}: not valid TOML: {e}") from e
    for text in overrides:
        given = merge(given, parse_assignment(text))
    return given, "settings" if path is None else str(path)


def _checked(model: type[AnySection], values: Nested, origin: str) -> AnySection:
    try:
        return model.model_validate(values)
    except ValidationError as e:
        raise ConfigError(_explain(e, origin, model)) from e
