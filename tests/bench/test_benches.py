"""Every bench at a tiny size: its form, and that it refuses a ratio when ours gives something else."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from crsearch.bench import benches, decode, rollout, sids, startup, step, train, trie
from crsearch.bench.figures import Figure, NotMeasured, Ratio
from crsearch.bench.machine import Machine
from crsearch.bench.timing import ResultsDiffer
from crsearch.cli.main import app
from crsearch.errors import ConfigError

LIMITS = Machine(
    cpu="abacus", cores=1, load=0.0, float32_gflops=100.0, bfloat16_gflops=400.0, memory_gbytes=10.0, torch="2",
    date="2026-11-20",
)  # fmt: skip
DECODE = decode.DecodeSizes(
    runs=1, items=60, codes=8, cases=((12, 3),), batches=((12, 3),), batch_runs=1, ours_batch=3, usual_batch=2,
    growth=(20, 60), growth_codes=8, growth_case=(12, 3), context=20, users=(2,), prefill=((64, 2, 12, 1),),
)  # fmt: skip
TRIE = trie.TrieSizes(runs=2, items=(50, 200), codes=8, appended=5, asked=40)
SIDS = sids.SidSizes(runs=1, compared=(150,), compared_once=(), alone=(), balanced=150, width=8, codes=4, iterations=8)
TRAIN = train.TrainSizes(runs=1, prompts=2, group=3, cases=((10, 4, 4), (12, 3, 6)))
STEP = step.StepSizes(runs=1, prompts=2, group=3, length=12, written=8, width=3, items=60, codes=8)
ROLLOUT = rollout.RolloutSizes(runs=1, items=60, codes=8, group=2, width=3, cases=((2, 12, 3),), step=STEP)
TINY = {
    "decode": lambda: decode.bench_decode(DECODE, LIMITS),
    "trie": lambda: trie.bench_trie(TRIE, LIMITS),
    "sids": lambda: sids.bench_sids(SIDS, LIMITS),
    "train": lambda: train.bench_train(TRAIN, LIMITS),
    "rollout": lambda: rollout.bench_rollout(ROLLOUT, LIMITS),
}


@pytest.fixture(autouse=True)
def without_trl(monkeypatch):
    """Its own warnings would be errors here."""
    monkeypatch.setattr(step, "installed", lambda name: False)


@pytest.mark.parametrize("name", TINY)
def test_a_bench_gives_ratios_and_figures_that_can_be_written_as_json(name):
    found = TINY[name]()
    assert any(isinstance(figure, Ratio) and figure.ours > 0 and figure.usual > 0 for figure in found)
    for figure in found:
        assert figure.key == name
        assert json.loads(json.dumps(figure.plain(), allow_nan=False))["what"]


def test_tries_that_hold_the_same_are_measured_in_time_memory_and_appending():
    parts = [figure.what for figure in TINY["trie"]() if isinstance(figure, Ratio)]
    assert parts == [
        "build, 50 items", "memory, 50 items", "append 5 to 50 items",
        "build, 200 items", "memory, 200 items", "append 5 to 200 items",
    ]  # fmt: skip


def test_floors_stand_at_the_sizes_of_the_promise_only():
    assert [f for f in TINY["decode"]() if not isinstance(f, NotMeasured) and f.floor is not None] == []
    full = decode.SIZES["full"]
    assert set(decode.FLOORS) <= set(full.cases)
    assert set(decode.BATCH_FLOORS) <= set(full.batches)
    assert (full.ours_batch, full.usual_batch, full.growth[0], full.growth[-1]) == (32, 8, 1_000, decode.GROWN)
    assert trie.FLOOR_ITEMS in trie.SIZES["full"].items
    assert sids.FLOOR_ITEMS in sids.SIZES["full"].alone
    assert set(train.FLOORS) <= set(train.SIZES["full"].cases)
    assert all(
        sizes.runs >= 5 for part in (decode, trie, sids, train, rollout, startup) for sizes in part.SIZES.values()
    )


def test_the_first_step_of_training_has_ratio_1():
    (first, *_) = [f for f in TINY["train"]() if isinstance(f, Figure) and f.floor == 1e-5]
    assert first.holds


def reversed_lists(search):
    def broken(*args, **kwargs):
        rows, scores = search(*args, **kwargs)
        return rows.flip(-1), scores

    return broken


def test_decode_refuses_lists_that_are_not_those_of_the_usual_way(monkeypatch):
    monkeypatch.setattr(decode, "beam_search", reversed_lists(decode.beam_search))
    with pytest.raises(ResultsDiffer, match="HF generate"):
        TINY["decode"]()


def test_decode_refuses_a_store_that_changes_scores(monkeypatch):
    search = decode.beam_search

    def broken(*args, store=None, **kwargs):
        rows, scores = search(*args, store=store, **kwargs)
        return rows, scores + 0.01 * (store is not None)

    monkeypatch.setattr(decode, "beam_search", broken)
    with pytest.raises(ResultsDiffer, match="prefix store"):
        TINY["decode"]()


def test_trie_refuses_one_that_lost_an_item(monkeypatch):
    build = trie.Trie.from_tokens
    monkeypatch.setattr(trie.Trie, "from_tokens", lambda tokens_NL: build(tokens_NL[: len(tokens_NL) // 2]))
    with pytest.raises(ResultsDiffer, match="trie of 50 items"):
        TINY["trie"]()


def test_trie_refuses_an_append_that_lost_an_item(monkeypatch):
    append = trie.Trie.append
    monkeypatch.setattr(trie.Trie, "append", lambda self, tokens_NL: append(self, tokens_NL[:1]))
    monkeypatch.setattr(trie, "_prefixes", lambda tokens_NL, count: [tuple(row[:3]) for row in tokens_NL.tolist()])
    with pytest.raises(ResultsDiffer, match="append 5 to 50"):
        TINY["trie"]()


def test_sids_refuses_codes_that_leave_more_over(monkeypatch):
    find = sids.residual_kmeans
    monkeypatch.setattr(
        sids, "residual_kmeans", lambda x, layers, codes, *rest, **own: find(x, layers, 2, *rest, **own)
    )
    with pytest.raises(ResultsDiffer, match="sklearn KMeans"):
        TINY["sids"]()


def test_sids_in_a_file_and_in_memory_are_measured_beside_each_other():
    found = sids._alone(sids.SidSizes(width=8, codes=4, iterations=8), 200, LIMITS)
    assert [figure.what.partition("4")[2] for figure in found] == [
        "", ": peak memory", ", from a file, threads: 1", ", from a file: peak memory", ": codes of 1,000 new items",
    ]  # fmt: skip
    assert all(figure.value > 0 for figure in found)


def test_sids_refuses_a_file_whose_vectors_get_other_codes(monkeypatch):
    took = iter(["in memory", "another"])
    monkeypatch.setattr(sids, "_spawned", lambda *_: sids._Took(1.0, 1.0, 1.0, 1.0, 1.0, next(took)))
    with pytest.raises(ResultsDiffer, match="get other codes than in memory"):
        sids._alone(sids.SidSizes(width=8, codes=4), 200, LIMITS)


def test_sids_says_how_to_install_what_is_missing(monkeypatch):
    monkeypatch.setattr(sids, "installed", lambda name: False)
    found = TINY["sids"]()
    assert found[-1] == NotMeasured(
        key="sids", what="against faiss.Kmeans", how="not installed (pip install faiss-cpu)"
    )
    assert not any(isinstance(f, Ratio) and "faiss" in f.usual_way for f in found)


def test_train_refuses_other_log_probabilities(monkeypatch):
    score = train.target_logprobs
    monkeypatch.setattr(train, "target_logprobs", lambda *args: score(*args) * 1.5)
    with pytest.raises(ResultsDiffer, match="repeated prompts"):
        TINY["train"]()


def test_train_refuses_other_gradients(monkeypatch):
    score = train.target_logprobs

    def broken(*args):
        logprob_M = score(*args)
        return logprob_M.detach() + 0.5 * (logprob_M - logprob_M.detach())

    monkeypatch.setattr(train, "target_logprobs", broken)
    with pytest.raises(ResultsDiffer, match="repeated prompts"):
        TINY["train"]()


def test_rollout_refuses_other_lists(monkeypatch):
    roll = rollout.think_then_rank

    def broken(*args, **kwargs):
        ranked = roll(*args, **kwargs)
        return replace(ranked, rows_BGK=ranked.rows_BGK.flip(-1))

    monkeypatch.setattr(rollout, "think_then_rank", broken)
    with pytest.raises(ResultsDiffer, match="prompt repeated"):
        TINY["rollout"]()


def test_rollout_refuses_other_thoughts():
    lists = (torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2))
    assert rollout.same_rollout(rollout.RolledOut([[1]], lists), rollout.RolledOut([[1]], lists))
    assert not rollout.same_rollout(rollout.RolledOut([[1]], lists), rollout.RolledOut([[2]], lists))


def test_an_rl_step_writes_what_it_was_asked_for_and_learns():
    ours = step.OurStep(STEP, bf16=False)
    before = [w.detach().clone() for w in ours.model.parameters()]
    ours(0)
    assert ours.written <= 2 * 3 * 8
    assert ours.written >= 0.95 * 2 * 3 * 8, "thoughts of a random model go on to their limit"
    assert not all(torch.equal(a, b) for a, b in zip(before, ours.model.parameters(), strict=True))


def test_an_rl_step_says_how_to_install_trl():
    (missing,) = step.bench_step(STEP)
    assert missing.how == "not installed (pip install trl)"


def test_steps_that_write_different_amounts_are_not_compared(monkeypatch):
    with pytest.raises(ResultsDiffer, match="ours wrote 40 tokens and TRL GRPOTrainer 48"):
        step.refuse_unequal([(48, 48), (40, 48)])


def test_floors_of_an_rl_step_stand_at_full_size_only():
    assert step.StepSizes().floors == (3.0, 5.0)
    assert STEP.floors == (None, None)


def test_startup_measures_whole_processes_and_asks_for_a_run():
    found = startup.bench_startup(startup.StartupSizes(runs=1, usual=False), LIMITS)
    assert [figure.what for figure in found] == ["import crsearch", "crsearch --help", "server until ready"]
    assert isinstance(found[-1], NotMeasured)


def test_startup_refuses_a_command_that_fails(monkeypatch):
    monkeypatch.setitem(startup.COMMANDS, "help", ["-c", "raise SystemExit('broken')"])
    with pytest.raises(ResultsDiffer, match="broken"):
        startup.bench_startup(startup.StartupSizes(runs=1, usual=False), LIMITS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serve"], "name the finished run"),
        (["serve", "runs/x", "--budget", "smoke"], "use --seconds and --requests"),
        (["decode", "runs/x"], "leave out runs"),
        (["trie", "--seconds", "5", "--requests", "20"], "--seconds and --requests are for serve"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments, says):
    done = CliRunner().invoke(app, ["bench", *arguments])
    assert done.exit_code == 2
    assert says in done.stderr
    assert "ConfigError" in done.stderr


def test_a_bench_is_printed_and_written(monkeypatch, tmp_path):
    monkeypatch.setattr(benches, "machine", lambda: LIMITS)
    monkeypatch.setitem(trie.SIZES, "smoke", TRIE)
    out = tmp_path / "trie.json"
    done = CliRunner().invoke(app, ["bench", "trie", "--budget", "smoke", "--json", "--out", str(out)])
    assert done.exit_code == 0, done.stderr
    document = json.loads(out.read_text())
    assert json.loads(done.stdout) == document
    assert (document["bench"], document["budget"], document["machine"]["cpu"]) == ("trie", "smoke", "abacus")
    assert len(document["figures"]) == 6
    shown = CliRunner().invoke(app, ["bench", "trie", "--budget", "smoke"]).stdout
    assert "append 5 to 200 items" in shown
    assert "cpu abacus" in shown


def test_a_bench_that_refuses_ends_with_1_and_prints_no_ratio(monkeypatch):
    monkeypatch.setattr(benches, "machine", lambda: LIMITS)
    monkeypatch.setitem(decode.SIZES, "smoke", DECODE)
    monkeypatch.setattr(decode, "beam_search", reversed_lists(decode.beam_search))
    done = CliRunner().invoke(app, ["bench", "decode", "--budget", "smoke"])
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "different results" in done.stderr


def test_options_of_serve_are_refused_before_anything_is_measured():
    with pytest.raises(ConfigError, match="are for serve"):
        benches.run_bench("decode", seconds=3.0)
