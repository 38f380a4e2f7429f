"""All benches by name, and the document that one leaves behind."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from crsearch.bench.figures import Measured
from crsearch.bench.machine import Machine, machine
from crsearch.bench.timing import Budget
from crsearch.errors import ConfigError

Name = Literal["serve", "decode", "trie", "sids", "train", "rollout", "startup"]


def refuse_odd(name: Name, run: Path | None, budget: Budget | None, options: dict[str, object]) -> None:
    """Raise a ConfigError unless the arguments go together.

    Args:
        name: of the bench.
        run: that is served or started.
        budget: of all but serve.
        options: of serve alone; None = not given.
    """
    if name == "serve" and run is None:
        raise ConfigError("bench serve: name the finished run that is served, e.g. crsearch bench serve runs/demo")
    if name == "serve" and budget is not None:
        raise ConfigError(f"bench serve: --budget {budget} is for the others; use --seconds and --requests")
    if name not in ("serve", "startup") and run is not None:
        raise ConfigError(f"bench {name}: measures models and catalogues of its own; leave out {run}")
    given = [option for option, value in options.items() if value is not None]
    if name != "serve" and given:
        raise ConfigError(f"bench {name}: {' and '.join(given)} are for serve; use --budget")


def run_bench(
    name: Name,
    run: Path | None = None,
    budget: Budget | None = None,
    seconds: float | None = None,
    requests: int | None = None,
) -> tuple[dict[str, Any], list[Measured]]:
    """Measure, and describe what was measured.

    Args:
        name: of the bench.
        run: served (serve) or started (startup).
        budget: sizes of all but serve; none = full.
        seconds: of serve's overload.
        requests: of each of serve's latencies.

    Returns:
        A document for JSON, and the figures in it.

    Raises:
        ConfigError: arguments that do not go together.
        ResultsDiffer: ours and the usual way do not give the same.
    """
    refuse_odd(name, run, budget, {"--seconds": seconds, "--requests": requests})
    limits = machine()
    figures: list[Measured]
    if name == "serve":
        from crsearch.bench.serve import bench_serve

        assert run is not None
        figures = [*bench_serve(run, seconds=seconds or 60.0, requests=requests or 300)]
    elif name == "startup":
        from crsearch.bench import startup

        figures = startup.bench_startup(startup.SIZES[budget or "full"], limits, run)
    elif name == "decode":
        from crsearch.bench import decode

        figures = decode.bench_decode(decode.SIZES[budget or "full"], limits)
    elif name == "trie":
        from crsearch.bench import trie

        figures = trie.bench_trie(trie.SIZES[budget or "full"], limits)
    elif name == "sids":
        from crsearch.bench import sids

        figures = sids.bench_sids(sids.SIZES[budget or "full"], limits)
    elif name == "train":
        from crsearch.bench import train

        figures = train.bench_train(train.SIZES[budget or "full"], limits)
    else:
        from crsearch.bench import rollout

        figures = rollout.bench_rollout(rollout.SIZES[budget or "full"], limits)
    return document(name, None if name == "serve" else budget or "full", limits, figures), figures


def document(name: str, budget: str | None, limits: Machine, figures: Sequence[Measured]) -> dict[str, Any]:
    """Figures and the machine they were measured on, for JSON."""
    return {
        "bench": name,
        "budget": budget,
        "machine": limits.plain(),
        "figures": [figure.plain() for figure in figures],
    }
