"""Write ``docs/settings.md`` from ``crsearch/config/sections.py``: every setting with type, default, range and meaning.

python docs/make_settings.py            # writes docs/settings.md
python docs/make_settings.py --check    # exit code 1 if it is out of date
"""

import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from crsearch.config import PRESETS, Settings

TARGET = Path(__file__).parent / "settings.md"

_HEAD = """\
# Settings

Generated from `crsearch/config/sections.py` by `python docs/make_settings.py`; do not edit.

Settings come from the defaults below, then the preset, then one TOML file, then `--set section.key=value`; later ones
win. An unknown key is refused with the nearest known one, a value out of range with its limits. `crsearch settings`
prints the settings that a run would have as a TOML file to begin with; those of a run stand in `settings.toml` in its
directory.

```toml
preset = "recommended"      # a line at the top of the file
seed = 1

[rl.reward]                 # a section
prefix_only = false
```

A range is written `>= 0`; `none` as a default means the key may be left out. TOML has no word for "none": to keep
such a default, leave the key out.
"""


def settings_page() -> str:
    """The whole page as Markdown."""
    return "\n".join([_HEAD, *_section("", Settings(), Settings), *_presets()])


def _section(path: str, values: BaseModel, model: type[BaseModel]) -> Iterator[str]:
    """A section as a heading and a table, then its sections."""
    plain = {n: f for n, f in model.model_fields.items() if not isinstance(getattr(values, n), BaseModel)}
    yield f"## {f'[{path}]' if path else 'Top of the file'}"
    yield ""
    if path and model.__doc__:
        yield f"{_line(model.__doc__)}\n"
    yield "| setting | type | default | range | meaning |"
    yield "|---|---|---|---|---|"
    for name, field in plain.items():
        cells = (f"`{name}`", kind(field.annotation), _value(getattr(values, name)), limits(field), meaning(field))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""
    for name in model.model_fields:
        inner = getattr(values, name)
        if isinstance(inner, BaseModel):
            yield from _section(f"{path}.{name}" if path else name, inner, type(inner))


def kind(annotation: Any) -> str:
    """A type in words.

    >>> kind(int | None), kind(Literal["a", "b"]), kind(tuple[float, ...])
    ('whole number or none', '`"a"`, `"b"`', 'list of number')
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f'`"{choice}"`' for choice in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(kind(part) for part in inner)
    if origin is tuple:
        count = "list" if inner[-1] is Ellipsis else f"list of {len(inner)}"
        return f"{count} of {kind(inner[0])}" if count == "list" else f"{count} {kind(inner[0])}s"
    return {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "none"}[annotation]


def limits(field: FieldInfo) -> str:
    """The range of a number: ``>= 1, <= 8``; empty where there is none."""
    signs = {"Ge": ">=", "Gt": ">", "Le": "<=", "Lt": "<"}
    found = [(signs[type(m).__name__], m) for m in field.metadata if type(m).__name__ in signs]
    return ", ".join(f"{sign} {getattr(m, type(m).__name__.lower()):g}" for sign, m in found)


def meaning(field: FieldInfo) -> str:
    """The docstring of a setting in one line, with Markdown's single back quotes."""
    return _line(field.description or "").replace("``", "`")


def _line(text: str) -> str:
    return " ".join(text.split())


def _value(value: object) -> str:
    """A value as TOML writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple | list):
        return f"`[{', '.join(_value(v).strip('`') for v in value)}]`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _presets() -> Iterator[str]:
    yield "## Presets"
    yield ""
    yield 'A preset is a set of values over the defaults; `preset = "paper"` in the file, or `--set preset=paper`.'
    yield ""
    for name, values in PRESETS.items():
        yield f"### {name}"
        yield ""
        rows = list(_flat(values))
        if not rows:
            yield "The defaults.\n"
            continue
        yield "| setting | default | here |"
        yield "|---|---|---|"
        for key, value in rows:
            yield f"| `{key}` | {_value(_default(key))} | {_value(value)} |"
        yield ""


def _flat(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _default(key: str) -> Any:
    found: Any = Settings()
    for part in key.split("."):
        found = getattr(found, part)
    return found


def main(arguments: list[str]) -> int:
    """Write the page, or compare it with the one on disk."""
    page = settings_page()
    if "--check" in arguments:
        is_current = TARGET.exists() and TARGET.read_text(encoding="utf-8") == page
        print(f"{TARGET}: {'up to date' if is_current else 'out of date; run: python docs/make_settings.py'}")
        return 0 if is_current else 1
    TARGET.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
