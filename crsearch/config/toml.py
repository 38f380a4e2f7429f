"""Settings as TOML, with their meanings where these are wanted."""

import json
import textwrap
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from crsearch.config.sections import Section, Settings


def to_toml(settings: Settings, *, explained: bool = False) -> str:
    """The resolved settings as TOML that ``load_settings`` reads back to the same value.

    Args:
        settings: to write; one that is None has no line.
        explained: with the meaning of each setting as a comment, and a commented line for those that are None.
    """
    return "\n".join(_section_lines(settings, "", explained)).strip() + "\n"


def _section_lines(section: Section, name: str, explained: bool) -> Iterator[str]:
    values = {field: getattr(section, field) for field in type(section).model_fields}
    plain = {field: value for field, value in values.items() if not isinstance(value, Section)}
    if name and (explained or any(value is not None for value in plain.values())):
        yield from ("", *(_comment(type(section).__doc__) if explained else ()), f"[{name}]")
    for field, value in plain.items():
        if explained:
            info = type(section).model_fields[field]
            choices = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
            yield from _comment(info.description)
            yield from _comment(f"One of {', '.join(map(str, choices))}." if choices else None)
        if value is not None:
            yield f"{field} = {_toml_value(value)}"
        elif explained:
            yield f"# {field} ="
    for field, value in values.items():
        if isinstance(value, Section):
            yield from _section_lines(value, f"{name}.{field}" if name else field, explained)


def _comment(text: str | None) -> list[str]:
    return textwrap.wrap(" ".join((text or "").split()), 100, initial_indent="# ", subsequent_indent="# ")


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"[{', '.join(map(_toml_value, value))}]" if isinstance(value, tuple) else repr(value)
