"""Table 4: backbones of three sizes, answering at once and thinking."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from crsearch.config import ModelConfig
from crsearch.errors import ConfigError
from crsearch.pipeline.experiments.lab import Lab, facts_of, mean_tokens
from crsearch.pipeline.experiments.summary import Rows, compare_rows, row_metrics

SIZES: Mapping[str, float] = {"half": 0.5, "one": 1.0, "one and a half": 1.5}
"""Name -> factor on width, heads, inner width and layers of the budget's model."""

SYSTEMS = ("crs", "crs-direct", "crs-no-thought")


def backbones(lab: Lab) -> dict[str, Any]:
    """Train each size on the same records with the same settings.

    Returns:
        ``sizes``: name -> ``parameters``, ``width``, ``layers``, ``searchers``, ``tokens``, ``runs``;
        ``comparisons``: thinking against the control within a size, and each size against the one before;
        ``test_queries``; ``ceiling``.

    Raises:
        ConfigError: ``model.path`` is set: the size of a folder cannot be changed.
    """
    if lab.settings.model.path is not None:
        raise ConfigError(
            f"experiment scale: model.path = {lab.settings.model.path!r} has one size; leave it out, or run each model "
            "with crsearch run --set model.path=..."
        )
    records = lab.shop()
    sizes: dict[str, Any] = {}
    rows: dict[str, Any] = {}
    for name, factor in SIZES.items():
        model = scaled(lab.settings.model, factor)
        changes = {"model": model.model_dump(), "evaluate": {"searchers": SYSTEMS}}
        arms = lab.arms(name.replace(" ", "-"), records, changes)
        own: Rows = {system: [arm.evaluation(system) for arm in arms] for system in SYSTEMS}
        rows |= {f"{name}: {system}": row for system, row in own.items()}
        sizes[name] = {
            "parameters": arms[0].stages["base"]["numbers"]["parameters"],
            "width": model.width,
            "layers": model.layers,
            "searchers": {system: row_metrics(row, lab.settings) for system, row in own.items()},
            "tokens": {system: mean_tokens(arms, system) for system in SYSTEMS},
            "runs": lab.relative(arms),
        }
        facts = facts_of(arms[0])
    names = list(SIZES)
    pairs = [(f"{name}: crs", f"{name}: crs-direct") for name in names]
    pairs += [
        (f"{larger}: {system}", f"{smaller}: {system}")
        for smaller, larger in pairwise(names)
        for system in ("crs", "crs-direct")
    ]
    return {"sizes": sizes, "comparisons": compare_rows(rows, pairs), **facts}


def scaled(model: ModelConfig, factor: float) -> ModelConfig:
    """A model with more or fewer heads of the same size, as wide as that makes it, and with more or fewer layers.

    >>> small = scaled(ModelConfig(), 0.5)
    >>> small.width, small.heads, small.kv_heads, small.feed_forward, small.layers
    (64, 2, 1, 192, 2)
    """
    heads = max(1, round(model.heads * factor))
    return ModelConfig.model_validate(
        {
            **model.model_dump(),
            "heads": heads,
            "kv_heads": next(k for k in range(max(1, round(model.kv_heads * factor)), 0, -1) if heads % k == 0),
            "width": max(MIN_WIDTH, model.width * heads // model.heads),
            "feed_forward": max(MIN_WIDTH, model.feed_forward * heads // model.heads),
            "layers": max(1, round(model.layers * factor)),
        }
    )


MIN_WIDTH = 8
"""What ``model.width`` and ``model.feed_forward`` are at least."""
