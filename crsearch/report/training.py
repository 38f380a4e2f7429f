"""Sections on how the model was trained: stages, losses, rewards, and what its thoughts state."""

from collections.abc import Mapping, Sequence
from typing import Any

from crsearch.report import figures, paper
from crsearch.report.figures import CEILING, CONTROL, LOOKS, Line, Stop
from crsearch.report.found import Found
from crsearch.report.lineage import BASELINES
from crsearch.report.parts import NONE, Card, Cell, Figure, Look, Prose, Section, Table
from crsearch.report.values import count, optional, plain, signed, with_interval

ALIGN, SFT, RL = LOOKS[2], LOOKS[0], LOOKS[1]
"""Looks of the three kinds of stages."""


def look_of(stage: str) -> Look:
    """How a stage is drawn, by its kind."""
    return RL if stage.startswith("rl") else SFT if stage.startswith("sft") else ALIGN


# -- stages -----------------------------------------------------------------------------------------------------------
def stages(found: Found) -> Section:
    """The path through the stages: figure 2 of the paper, and what each stage learned from."""
    if not found.stages:
        return Section("stages", "Stages", [Prose("The run has no measured stages.")])
    final = found.results.get("final_stage")
    rows = [_stage_row(found, i) for i in range(len(found.stages))]
    table = Table(
        caption="Every stage on the same test users; the stage that is crs is marked. Change: NDCG@10 minus that of "
        "the stage before, paired, with its 95 % interval. Validation: NDCG@10 on validation users. The last column: "
        "NDCG@10 on All-50K in the paper; other data, so only the direction can be compared.",
        header=("stage", "learned from", "tokens", "HR@1", "HR@10", "NDCG@10", "change", "validation", "paper"),
        rows=rows,
        words=frozenset({0, 1}),
        marked=frozenset(i for i, s in enumerate(found.stages) if s["name"] == final),
    )
    kept = _kept_traces(found)
    return Section("stages", "Stages", [_path(found), table, *([kept] if kept else [])])


def _stage_row(found: Found, place: int) -> tuple[Cell, ...]:
    stage = found.stages[place]
    name, metrics = stage["name"], stage["metrics"]
    change = None
    if stage in found.thinking[1:]:
        change = found.difference(f"stage.{name}", f"stage.{found.stages[place - 1]['name']}", "NDCG@10")
    reported = paper.STAGES_50K.get(name)
    return (
        Cell(name, "(answers at once)" if stage.get("mode") == "direct" else ""),
        Cell(learned_from(found, name)),
        count(stage["tokens"]),
        *(with_interval(metrics[m]) for m in ("HR@1", "HR@10", "NDCG@10")),
        NONE if change is None else signed(change),
        optional(found.stage_numbers(f"valid.{name}"), "NDCG@10"),
        NONE if reported is None else Cell(plain(reported, 4)),
    )


def learned_from(found: Found, stage: str) -> str:
    """What a stage was trained on, in words."""
    chosen = found.stage_numbers(f"{stage}.select")
    if stage == "align":
        return "items, and what users chose"
    if stage == "sft0":
        traces = found.stage_numbers("distill").get("traces")
        return f"{traces:,} thoughts of the teacher" if traces is not None else "thoughts of the teacher"
    if "incorrect" in chosen:
        return f"{chosen['incorrect']:,} of {chosen['asked']:,} users, answered wrong"
    if "correct" in chosen:
        return f"{chosen['correct']:,} of {chosen['asked']:,} users, answered right"
    return "all its users"


def _kept_traces(found: Found) -> Prose | None:
    """What the filter kept and refused of the teacher's traces."""
    numbers: Mapping[str, Any] = found.stage_numbers("distill").get("refused", {})
    if not numbers:
        return None
    said = ", ".join(f"{reason}: {number:,}" for reason, number in sorted(numbers.items()) if number)
    return Prose(f"Traces of the teacher ({found.settings.distill.teacher}), by what became of them: {said}.")


def _path(found: Found) -> Figure:
    panels, control, ceiling = [], False, False
    for metric in ("HR@10", "NDCG@10"):
        levels = []
        if metric in (found.results.get("ceiling") or {}):
            levels.append((CEILING, found.results["ceiling"][metric]))
            ceiling = True
        if "crs-direct" in found.results.get("searchers", {}):
            levels.append((CONTROL, found.results["searchers"]["crs-direct"][metric]["mean"]))
            control = True
        stops = [
            Stop(s["name"], look_of(s["name"]), s.get("mode") != "direct", s["metrics"][metric]) for s in found.stages
        ]
        panels.append((metric, figures.path(f"stages-{metric[:2]}", f"{metric} after each stage", stops, levels)))
    legend = [("alignment, answers at once", ALIGN), ("SFT", SFT)]
    legend += [("RL", RL)] if found.rl_stages else []
    legend += [("crs-direct", CONTROL)] if control else []
    legend += [("ceiling", CEILING)] if ceiling else []
    caption = "HR@10 and NDCG@10 after each half-iteration with 95 % intervals, as in figure 2 of the paper."
    return Figure(caption=caption, panels=panels, legend=legend)


# -- losses -----------------------------------------------------------------------------------------------------------
_LOSSES = {
    "loss_direct": "direct: item chosen, without a thought",
    "loss_think": "think: thought, then the item",
    "loss_item_words": "item_words: text of clicked items",
    "loss_name": "name: text of the item chosen",
    "loss_item_to_sid": "item_to_sid: semantic ID of an item",
    "loss_sid_to_item": "sid_to_item: text of a semantic ID",
}


_OTHER_LOSSES = {
    "loss_retrieval": "retrieval: identifier for a query",
    "loss_indexing": "indexing: identifier for an item's text",
    "loss_pseudo_query": "pseudo_query: identifier for made queries",
    "loss_rank_top": "rank_top: against the best wrong items",
    "loss_rank_random": "rank_random: against random wrong items",
    "loss_answer": "answer: after a latent thought",
    "loss_next": "next: item after those chosen before",
}
"""Losses of the generative baselines."""

CONTROL_STAGES = {"direct0": "crs-direct, constant rate", "direct": "crs-direct"}
"""Stages of the control -> how they are called."""


def losses(found: Found) -> Section:
    """Loss per kind of example in every stage of CRS and its control, then in those of the other systems."""
    title = "Learning curves"
    logged = dict.fromkeys(row["stage"] for row in found.numbers)
    own = [s["name"] for s in found.stages] + [name for name in CONTROL_STAGES if name in logged]
    others = [stage for stage in logged if stage.split("/")[0] in BASELINES]
    drawn = [
        _curves(found, own, _LOSSES, "In RL stages these are the anchors that keep what was learned."),
        _curves(found, others, _OTHER_LOSSES, "Stages of the other systems that are trained here."),
    ]
    parts = [part for pair in drawn if pair is not None for part in pair]
    return Section("losses", title, parts or [Prose("The run logged no losses.")])


def _curves(found: Found, stages: Sequence[str], kinds: Mapping[str, str], remark: str) -> tuple[Figure, Table] | None:
    """Every kind of loss in some stages, a panel each, and where it began and ended; none if nothing was logged."""
    looks = dict(zip(kinds, LOOKS, strict=False))
    panels, rows = [], []
    used: set[str] = set()
    for stage in stages:
        series = {kind: found.series(stage, kind) for kind in kinds}
        series = {kind: (x, y) for kind, (x, y) in series.items() if x}
        if not series:
            continue
        used.update(series)
        lines = [Line(looks[kind], x, y) for kind, (x, y) in series.items()]
        title = CONTROL_STAGES.get(stage, stage)
        name = f"loss-{stage.replace('/', '-')}"
        panels.append((title, figures.curves(name, f"losses in stage {title}", lines)))
        rows += [
            (Cell(title), Cell(kind.removeprefix("loss_")), count(x[-1]), Cell(plain(y[0])), Cell(plain(y[-1])))
            for kind, (x, y) in series.items()
        ]
    if not panels:
        return None
    drawn = Figure(
        caption="Loss per token in nats, by kind of example. Each point is the mean over the steps since the point "
        f"before it. {remark}",
        panels=panels,
        legend=[(kinds[kind], looks[kind]) for kind in kinds if kind in used],
    )
    table = Table(
        caption="First and last logged loss.",
        header=("stage", "kind", "steps", "first", "last"),
        rows=rows,
        folded=True,
        words=frozenset({0, 1}),
    )
    return drawn, table


# -- rewards ----------------------------------------------------------------------------------------------------------
_REWARDS = {
    "r_star": "r*, reward of a ranked list",
    "reward_accuracy": "accuracy reward, mean over the beam",
    "target_in_beam": "target in the beam",
    "hit_at_1": "HR@1 on rollouts",
    "thought_tokens": "tokens of a thought",
    "forced_closings": "thoughts closed by force",
    "constant_groups": "groups without a signal",
    "target_in_any_beam": "target in a beam of any thought",
    "distinct_4grams": "distinct runs of 4 tokens in a thought",
    "policy_kl": "KL from the start of the stage",
}


def rewards(found: Found) -> Section:
    """What reinforcement learning saw, step by step."""
    title = "Rewards"
    if not found.rl_stages:
        return Section("rewards", title, [Prose("The run has no stage of reinforcement learning.")])
    looks = figures.looks(found.rl_stages)
    panels, rows = [], []
    for name, caption in _REWARDS.items():
        series = {stage: found.series(stage, name) for stage in found.rl_stages}
        series = {stage: (x, y) for stage, (x, y) in series.items() if x}
        if not series or (name == "policy_kl" and not any(any(y) for _, y in series.values())):
            continue  # never logged; a divergence of exactly 0 was not asked for
        lines = [Line(looks[stage], x, y) for stage, (x, y) in series.items()]
        panels.append((caption, figures.curves(f"reward-{name}", caption, lines, from_zero=True)))
        rows += [
            (Cell(caption), Cell(stage), count(x[-1]), Cell(plain(y[0])), Cell(plain(y[-1])))
            for stage, (x, y) in series.items()
        ]
    if not panels:
        return Section("rewards", title, [Prose("The stages of reinforcement learning logged no numbers.")])
    config = found.settings.rl
    who = "users whom the model answered wrong" if config.hard_only else "all users of the stage"
    text = (
        f"{config.group_size} thoughts per context, {config.beam} items after each; rewards fold into r* "
        f"({'rank-aware, R-GRPO' if config.aggregate == 'rank_aware' else 'the first item only, GRPO'}). "
        f"The rollouts are on {who}, so their HR@1 is not that of the test users."
    )
    drawn = Figure(
        caption="Means over the rollouts of each batch; each point is the mean over the steps since the point before.",
        panels=panels,
        legend=[(stage, looks[stage]) for stage in found.rl_stages],
    )
    table = Table(
        caption="First and last logged value.",
        header=("number", "stage", "steps", "first", "last"),
        rows=rows,
        folded=True,
        words=frozenset({0, 1}),
    )
    group = _last_group(found)
    return Section("rewards", title, [Prose(text), drawn, table, *([group] if group else [])])


def _last_group(found: Found) -> Card | None:
    """The last context that the trace of the last RL stage holds, with its trajectories."""
    stage = found.rl_stages[-1]
    trace = found.lines("traces", "rollouts", f"{stage}.jsonl")
    if not trace:
        return None
    last = trace[-1]
    rows = [
        (
            Cell(t["thought"]), Cell("yes" if t["closed"] else "no"), _rank(t["items"], last["target"]),
            Cell(plain(t["r_star"])), Cell(plain(t["advantage"])),
        )
        for t in last["trajectories"]
    ]  # fmt: skip
    table = Table(
        caption="Every thought that was sampled for this context. Rank: of the item that the user chose, in the list "
        "after the thought. Advantage: r* against the others of the group.",
        header=("thought", "closed", "rank", "r*", "advantage"),
        rows=rows,
        words=frozenset({0, 1}),
    )
    return Card(f"One group of rollouts: {stage}, step {last['step']}, search {last['search_id']}", [table])


def _rank(items: Sequence[str], target: str) -> Cell:
    return Cell(str(items.index(target) + 1)) if target in items else NONE
