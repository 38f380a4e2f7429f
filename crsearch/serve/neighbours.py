"""Runs beside the served one, to be looked at: curves, differences of settings, how to go on. Nothing is written.

A name is looked up among the folders that are there; it never becomes a path, and links are passed over.

Source: details: this project.
"""

import json
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crsearch.serve.admin import curves
from crsearch.serve.answers import Curve, Neighbour, NeighbourRow, SettingRow

MOST_RUNS = 200
"""Runs that are listed, by name."""
MOST_BYTES = 50_000_000
"""Of a file that is read; a larger one is passed over."""
_SETTINGS, _MANIFEST, _RESULTS, _METRICS = "settings.toml", "manifest.json", "results.json", "metrics.jsonl"


def neighbours(served: Path) -> list[NeighbourRow]:
    """The runs in the folder of the served one, itself among them, by name."""
    return [_row(folder) for folder in list(_folders(served))[:MOST_RUNS]]


def neighbour(served: Path, name: str) -> Neighbour | None:
    """One of them; none = there is no such run."""
    folder = next((f for f in _folders(served) if f.name == name), None)
    if folder is None:
        return None
    row = _row(folder)
    return {
        **row,
        "curves": _curves(folder / _METRICS),
        "settings": differences(_settings(served), _settings(folder)),
        "command": shlex.join(["crsearch", "run", f"{folder}/{_SETTINGS}", "--out", str(folder), "--resume"]),
    }


def differences(served: Mapping[str, Any], other: Mapping[str, Any]) -> list[SettingRow]:
    """Settings that are not the same, by name.

    >>> differences({"seed": 0, "rl": {"steps": 3}}, {"seed": 0, "rl": {"steps": 5}, "threads": 1})
    [{'name': 'rl.steps', 'served': '3', 'other': '5'}, {'name': 'threads', 'served': '–', 'other': '1'}]
    """
    here, there = dict(_flat(served)), dict(_flat(other))
    names = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    return [{"name": name, "served": here.get(name, "–"), "other": there.get(name, "–")} for name in names]


def _folders(served: Path) -> Iterator[Path]:
    for folder in sorted(served.resolve().parent.iterdir()):
        if folder.is_dir() and not folder.is_symlink() and (folder / _MANIFEST).is_file():
            yield folder


def _row(folder: Path) -> NeighbourRow:
    stages = _json(folder / _MANIFEST).get("stages")
    results = _json(folder / _RESULTS)
    final = results.get("final_stage")
    means = results.get("searchers", {}).get("crs", {}) if isinstance(results.get("searchers"), dict) else {}
    return {
        "name": folder.name,
        "stages": [str(stage) for stage in stages] if isinstance(stages, dict) else [],
        "is_finished": isinstance(final, str),
        "hr10": _mean(means, "HR@10"),
        "ndcg10": _mean(means, "NDCG@10"),
    }


def _curves(file: Path) -> list[Curve]:
    try:
        return [] if _size(file) > MOST_BYTES else curves(file)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _mean(found: Any, metric: str) -> float | None:
    value = found.get(metric) if isinstance(found, dict) else None
    mean = value.get("mean") if isinstance(value, dict) else None
    return float(mean) if isinstance(mean, int | float) else None


def _settings(run: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(_text(run / _SETTINGS))
    except (OSError, ValueError):
        return {}


def _json(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(_text(file))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(file: Path) -> str:
    if _size(file) > MOST_BYTES:
        raise ValueError(f"{file}: larger than {MOST_BYTES:,} bytes")
    return file.read_text(encoding="utf-8")


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", json.dumps(value, ensure_ascii=False, default=str)
