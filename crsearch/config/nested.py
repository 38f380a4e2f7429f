"""Settings as nested values, before they are checked."""

from collections.abc import Mapping
from typing import Any

Nested = dict[str, Any]


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Nested:
    """``base`` with the values of ``over``, section by section.

    >>> merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    out = dict(base)
    for key, value in over.items():
        out[key] = merge(out[key], value) if isinstance(value, Mapping) and isinstance(out.get(key), Mapping) else value
    return out
