"""A finished run in small: a simulated shop, lists made by rule instead of a model, files as a run leaves them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crsearch.config import Settings, load_settings, to_toml
from crsearch.encoders import build_encoder
from crsearch.evaluate.evaluation import Evaluation, compare, evaluate
from crsearch.evaluate.groups import query_groups
from crsearch.evaluate.trec import write_qrels
from crsearch.pipeline.measure import rungs
from crsearch.records.simulator import Simulation, ceiling, simulate
from crsearch.records.simulator.stated import FIELDS, Lexicon, stated_fields
from crsearch.records.statistics import statistics
from crsearch.records.types import Context, Example, RankedList
from crsearch.runs import RunDirectory, write_atomic, write_json
from crsearch.searchers.bm25 import Bm25Searcher
from crsearch.searchers.popularity import PopularitySearcher, query_key, training_counts
from crsearch.sids import item_text, quality, sids_from_embeddings

SYSTEMS = ("crs", "crs-direct", "crs-no-thought", "bm25", "popularity")
STAGES = ("align", "sft0", "rl0", "sft1")
TOKENS = {"align": 5_000, "sft0": 1_500, "rl0": 900, "sft1": 1_200, "direct": 3_600}
NOT_RUN = {"dense-bge": "weights not at hand (hf download it, then --set dense.bge=it)"}
COSTS = {
    stage: {"seconds": 2.0 * cpu, "cpu_seconds": cpu}
    for stage, cpu in {
        "data": 1.0, "distill": 2.0, "base": 3.0, "align": 40.0, "sft0": 10.0, "rl0.select": 5.0, "rl0": 8.0,
        "sft1.select": 6.0, "sft1": 4.0, "direct": 30.0, "valid.sft0": 1.5, "valid.rl0": 1.5, "eval.crs": 3.0,
    }.items()
}  # fmt: skip
_TURN = {"crs": 0, "crs-direct": 1, "crs-no-thought": 2, "stage.align": 3, "stage.sft0": 2, "stage.rl0": 1,
         "stage.sft1": 0}  # fmt: skip
"""How far the best possible list is turned: the larger, the worse a system ranks."""


class Listed:
    """A searcher that gives lists it was handed."""

    def __init__(self, name: str, lists: Mapping[str, Sequence[str]]) -> None:
        self.name, self.lists = name, lists

    def search(self, contexts: Sequence[Context], k: int) -> list[RankedList]:
        answers = [(c.search_id, tuple(self.lists[c.search_id][:k])) for c in contexts]
        return [
            RankedList(search_id=search_id, item_ids=items, scores=tuple(-float(i) for i in range(len(items))))
            for search_id, items in answers
        ]


def settings() -> Settings:
    return load_settings(
        None,
        [
            'preset="smoke"', "simulate.users=60", "simulate.items=60", "sids.codes=4", "encoder.dim=8",
            "threads=1", f"evaluate.searchers={json.dumps(SYSTEMS)}",
        ],
    )  # fmt: skip


def make_run(folder: Path) -> Path:
    """Write a finished run."""
    config = settings()
    shop = simulate(config.simulate, config.split, config.seed)
    shop.save(folder / "data")
    catalogue = shop.dataset.catalogue
    texts = [item_text(item) for item in catalogue]
    embeddings_ND = build_encoder(config.encoder, texts, config.seed).encode(texts, kind="item")
    book = sids_from_embeddings(list(catalogue.ids), embeddings_ND, config.sids, config.seed)
    write_json(folder / "sids" / "quality.json", quality(book, embeddings_ND))
    write_atomic(folder / "settings.toml", to_toml(config))
    examples = shop.dataset.examples("test", config.context.max_events)
    done = _answers(folder, shop, examples)
    with RunDirectory(folder) as run:
        _log(run)
    _trace(folder, examples[0])
    write_qrels(folder / "eval" / "qrels.trec", done["crs"].targets)
    write_json(folder / "results.json", _results(folder, shop, done))
    return folder


def _answers(folder: Path, shop: Simulation, examples: Sequence[Example]) -> dict[str, Evaluation]:
    """Lists and thoughts of every system and stage: those of the truth, turned further the worse the system."""
    truth = {row["search_id"]: row for row in shop.truth.iter_rows(named=True)}
    asked = [e.context.search_id for e in examples]
    counts = training_counts(shop.dataset)
    catalogue, done = shop.dataset.catalogue, {}
    kinds = {s: truth[s]["query_kind"] for s in asked}
    chosen = [counts.queries.get(query_key(e.context.query), {}) for e in examples]
    groups = query_groups(examples, counts.items, kinds, chosen=chosen, items=catalogue)
    best = {s: truth[s]["bayes_items"] for s in asked}
    searchers = [
        *(Listed(name, {s: best[s][turn:] + best[s][:turn] for s in asked}) for name, turn in _TURN.items()),
        Bm25Searcher(catalogue),
        PopularitySearcher(catalogue, counts),
    ]
    for searcher in searchers:
        done[searcher.name] = evaluate(searcher, examples, catalogue.ids, groups=groups)
        done[searcher.name].save(folder / "eval")
    for name, turn in _TURN.items():
        thoughts = {s: truth[s]["thought_map" if turn == 0 else "thought_noisy"] for s in asked}
        write_json(folder / "traces" / "thoughts" / f"{name}.json", thoughts)
    return done


def _results(folder: Path, shop: Simulation, done: Mapping[str, Evaluation]) -> dict[str, Any]:
    systems = {name: done[name] for name in SYSTEMS}
    rows = {name: e.metrics() for name, e in systems.items()}
    return {
        "data": statistics(shop.dataset),
        "test_queries": len(done["crs"]),
        "seeds": [0],
        "invalid_items": 0,
        "searchers": rows,
        "rungs": rungs(rows),
        "not_run": NOT_RUN,
        "final_stage": "sft1",
        "stages": [
            {"name": name, "tokens": TOKENS[name], "mode": "direct" if name == "align" else "think",
             "metrics": done[f"stage.{name}"].metrics()}
            for name in STAGES
        ],
        "groups": {
            name: {
                column: {label: {"queries": len(part), **part.metrics()} for label, part in e.by_group(column).items()}
                for column in e.groups
            }
            for name, e in systems.items()
        },
        "significance": {
            metric: {
                c.other: {"difference": c.difference, "p": c.p, "p_holm": c.p_holm}
                for c in compare(systems["crs"], [e for n, e in systems.items() if n != "crs"], metric)
            }
            for metric in ("HR@10", "NDCG@10")
        },
        "ceiling": ceiling(shop.truth),
        "thoughts": {f"stage.{name}": _accuracy(folder, shop, f"stage.{name}") for name in STAGES[1:]},
    }  # fmt: skip


def _accuracy(folder: Path, shop: Simulation, system: str) -> dict[str, float]:
    lexicon = Lexicon.from_catalogue(shop.dataset.catalogue)
    known = {row["search_id"]: row for row in shop.truth.iter_rows(named=True)}
    thoughts = json.loads((folder / "traces" / "thoughts" / f"{system}.json").read_text())
    stated = {s: stated_fields(thought, lexicon) for s, thought in thoughts.items()}
    return {
        f"{field}_{word}": sum(stated[s][field] == known[s][f"{column}_{field}"] for s in stated) / len(stated)
        for field in FIELDS
        for word, column in (("supported", "map"), ("true", "true"))
    }


def _log(run: RunDirectory) -> None:
    """Numbers as the trainer logs them, and facts as the stages leave them in the manifest."""
    run.describe({"crsearch": "0.1.0", "torch": "2.13.0", "device": "cpu", "threads": 1, "seed": 0, "data": "ab12"})
    for stage in (*STAGES, "direct"):
        for step in (10, 20, 30):
            numbers = {"loss": 3.0, "loss_direct": 4.0 - step / 20, "loss_item_words": 3.0 - step / 30}
            if stage.startswith("sft"):
                numbers["loss_think"] = 2.0
            if stage.startswith("rl"):
                numbers |= {
                    "r_star": 0.1 + step / 100, "reward_accuracy": 0.2, "target_in_beam": 0.3, "hit_at_1": 0.1,
                    "thought_tokens": 20.0, "forced_closings": 0.5 - step / 100, "constant_groups": 0.2,
                }  # fmt: skip
            run.log(stage, step, numbers)
    for step in (10, 20):
        run.log("latent-r3/sft", step, {"loss_answer": 5.0 - step / 10})
    facts: dict[str, dict[str, Any]] = {
        "base": {"parameters": 1234, "vocabulary": 99},
        "distill": {"traces": 17, "refused": {"kept": 17, "title": 2, "sid": 0}},
        "direct": {"tokens_sum": TOKENS["direct"]},
        "rl0.select": {"asked": 20, "incorrect": 9},
        "sft1.select": {"asked": 40, "correct": 31},
        **{f"valid.{stage}": {"NDCG@10": 0.25, "users": 6} for stage in STAGES[1:]},
    }
    for stage in COSTS.keys() | facts.keys():
        run.complete(stage, "key", [], facts.get(stage, {}), COSTS.get(stage))


def _trace(folder: Path, example: Example) -> None:
    common = {"rewards": [0.1, 1.0], "r_star": 0.4}
    row = {
        "stage": "rl0", "step": 30, "search_id": example.context.search_id, "context": "{}", "target": example.target,
        "trajectories": [
            {**common, "thought": "A coat.", "items": ["x", example.target], "closed": True, "advantage": 1.0},
            {**common, "thought": "A phone.", "items": [], "closed": False, "advantage": -1.0},
        ],
    }  # fmt: skip
    write_atomic(folder / "traces" / "rollouts" / "rl0.jsonl", json.dumps(row) + "\n")
    trace = {"search_id": example.context.search_id, "source": "analyst:map", "thought": "A coat. A coat."}
    write_atomic(folder / "traces" / "distilled.jsonl", json.dumps(trace) + "\n")
