"""What the run cost: time and tokens of every stage and of every system."""

from collections.abc import Mapping

from crsearch.report import figures
from crsearch.report.figures import Bar
from crsearch.report.found import Found
from crsearch.report.lineage import BASELINES, READS, behind, is_crs, trained_tokens
from crsearch.report.parts import NONE, Cell, Figure, Look, Prose, Section, Table
from crsearch.report.systems import by_quality
from crsearch.report.training import CONTROL_STAGES
from crsearch.report.values import count, percent, plain

Stage = Mapping[str, float]
"""``seconds`` on the clock and ``cpu_seconds`` of the process that did a stage."""

SELECT = ".select"
"""End of the name of a stage that chooses the examples of another."""

LOOKS: Mapping[str, Look] = {
    "records, semantic IDs, base": figures.LOOKS[5],
    "crs": figures.LOOKS[0],
    "crs-direct": figures.LOOKS[4],
    "other systems": figures.LOOKS[2],
    "measurement": figures.LOOKS[3],
}
"""What stages are for, in the order in which they come."""


def cost(found: Found) -> Section:
    """Time and tokens per stage, then per system."""
    costs = found.costs()
    if not costs:
        return Section("cost", "Cost", [Prose("The run holds no times of its stages.")])
    return Section("cost", "Cost", [Prose(_conditions(found)), _drawing(costs), _stages(found, costs), _systems(found)])


def _conditions(found: Found) -> str:
    manifest = found.run.manifest
    machine = f"device {manifest.get('device', 'unknown')}, threads per process: {manifest.get('threads', 'unknown')}"
    tokens = found.stage_numbers("distill").get("tokens")
    teacher = "" if tokens is None else f" The teacher ({found.settings.distill.teacher}) took {tokens:,.0f} tokens."
    return (
        f"Measured by the run itself: {machine}, processes side by side: up to {found.settings.processes}, so the "
        "seconds of stages may overlap and a stage may have had neighbours; a stage that was resumed counts from its "
        "last start." + teacher
    )


def _kind(stage: str) -> str:
    """What a stage is for: a key of ``LOOKS``."""
    name = stage.removesuffix(SELECT)
    if stage.startswith(("valid.", "eval.")):
        return "measurement"
    if name in CONTROL_STAGES:
        return "crs-direct"
    if name in BASELINES:
        return "other systems"
    return "crs" if name.startswith(("align", "sft", "rl", "distill")) else "records, semantic IDs, base"


def _summed(costs: Mapping[str, Stage]) -> dict[str, tuple[str, float, float]]:
    """Row -> its kind, seconds and CPU seconds; measurements of one sort are one row."""
    rows: dict[str, tuple[str, float, float]] = {}
    for stage, its in costs.items():
        kind = _kind(stage)
        name = {"valid": "validation", "eval": "evaluation"}[stage.split(".")[0]] if kind == "measurement" else stage
        _, seconds, cpu = rows.get(name, (kind, 0.0, 0.0))
        rows[name] = (kind, seconds + its["seconds"], cpu + its["cpu_seconds"])
    kinds = list(LOOKS)
    return dict(sorted(rows.items(), key=lambda row: (kinds.index(row[1][0]), -row[1][2], row[0])))


def _drawing(costs: Mapping[str, Stage]) -> Figure:
    rows = _summed(costs)
    bars = [Bar(name, LOOKS[kind], cpu) for name, (kind, _, cpu) in rows.items()]
    used = {kind for kind, _, _ in rows.values()}
    return Figure(
        caption="CPU seconds of every stage; values are in the table below.",
        panels=[("CPU seconds", figures.bars("cost", "CPU seconds of every stage", bars))],
        legend=[(kind, look) for kind, look in LOOKS.items() if kind in used],
    )


def _stages(found: Found, costs: Mapping[str, Stage]) -> Table:
    summed = _summed(costs)
    whole = sum(cpu for _, _, cpu in summed.values())
    rows = []
    for name, (kind, seconds, cpu) in summed.items():
        tokens = found.stage_numbers(name).get("tokens_sum")
        speed = NONE if not tokens or not cpu else count(tokens / cpu)
        share = Cell(percent(cpu / whole)) if whole else NONE
        rows.append((Cell(name), Cell(kind), _time(seconds), _time(cpu), share, count(tokens), speed))
    total = (Cell("all"), Cell(""), _time(sum(row[1] for row in summed.values())), _time(whole), NONE, NONE, NONE)
    return Table(
        caption="Time per stage. NAME.select chooses the examples of stage NAME; validation and evaluation are those "
        "of all stages and systems together.",
        header=("stage", "for", "seconds", "CPU seconds", "share of CPU", "trained tokens", "tokens per CPU second"),
        rows=[*rows, total],
        words=frozenset({0, 1}),
        marked=frozenset({len(rows)}),
    )


def _time(seconds: float) -> Cell:
    return Cell(plain(seconds, 1) if seconds < 100 else f"{seconds:,.0f}")


def _systems(found: Found) -> Table:
    rows = []
    names = [name for name, _ in by_quality(found)]
    for name in names:
        training = training_seconds(found, name)
        taken = NONE if training is None else _time(training)
        milliseconds = found.milliseconds(name)
        latency = NONE if milliseconds is None else Cell(plain(milliseconds, 2))
        trained = ", ".join(behind(found, name)) or "–"
        reads = Cell(READS.get(name, "–"))
        tokens = found.mean_tokens(name)
        budget = [count(tokens.get(which)) for which in ("read_tokens", "thought_tokens")]
        rows.append((Cell(name), reads, Cell(trained), count(trained_tokens(found, name)), taken, *budget, latency))
    return Table(
        caption="Cost per system, best NDCG@10 first. Training: CPU seconds of the stages behind its model, with the "
        "choice of their examples, and for crs with the teacher's traces; records, semantic IDs and the base are "
        "shared by all. Prompt and thought: mean tokens of a query that a language model read and wrote before it "
        "ranked; crs-fused reads two prompts. Per query: time of a batch "
        f"of {found.settings.decode.batch} queries over its queries; contexts were tokenised before.",
        header=(
            "system",
            "reads",
            "trained in",
            "trained tokens",
            "training, CPU s",
            "prompt",
            "thought",
            "per query, ms",
        ),
        rows=rows,
        words=frozenset({0, 1, 2}),
        marked=frozenset(i for i, name in enumerate(names) if name == "crs"),
    )


def training_seconds(found: Found, system: str) -> float | None:
    """CPU seconds that went into the model of a system; none where nothing was trained or nothing is known."""
    trained, costs = behind(found, system), found.costs()
    taught = ["distill"] if is_crs(system) and "sft0" in trained else []
    stages = [s for s in (*taught, *trained, *(f"{stage}{SELECT}" for stage in trained)) if s in costs]
    return sum(costs[s]["cpu_seconds"] for s in stages) if stages else None
