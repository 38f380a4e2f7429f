"""A new version of the catalogue is tried before it is used, and not used where trial searches find nothing."""

import asyncio
import math
import time
from collections import Counter
from dataclasses import replace

import pytest

from crsearch.encoders import LsaEncoder
from crsearch.errors import ModelError
from crsearch.records.types import Context, Item
from crsearch.searchers.bm25 import Bm25Searcher
from crsearch.serve.below import NEVER_MS
from crsearch.serve.canary import LEAST, QUERIES, Verdict, Verdicts, trial_contexts
from crsearch.serve.catalogue import CatalogueStore
from crsearch.serve.contract import Rung, SearchRequest
from crsearch.serve.index import RUNG_SYSTEMS, Index
from crsearch.serve.jobs import TRIAL_SECONDS, Job, Outcome
from crsearch.serve.problems import Problem

NEW = Item(item_id="new", title="phone case glow", category=("phone",), price=3.0)


def broken_for(service, name: str) -> list[str]:
    """The model breaks in one version; every try of it."""
    whole, tries = service.engine._decode, []

    def decode(jobs, todo):
        if jobs[0].index.name == name:
            tries.append(name)
            raise RuntimeError("broken")
        return whole(jobs, todo)

    service.engine._decode = decode
    return tries


async def until(is_so) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


def rows(status) -> dict[str, dict]:
    return {row["name"]: row for row in status["catalogue"]["versions"]}


def swaps(service, outcome: str) -> float:
    return service.metrics.registry.get_sample_value("crsearch_catalogue_swaps_total", {"outcome": outcome}) or 0.0


def test_a_new_version_is_tried_and_the_table_shows_it(serving):
    async def work(service):
        name = await service.change_items("add", [NEW])
        return name, await service.admin(), Verdicts(service.store.place / "canary.json").get(name)

    name, status, kept = serving(work)
    row = rows(status)[name]
    assert (row["state"], row["canary"]) == ("current", 1.0) and row["canary_ms"] > 0
    assert kept.is_good and kept.queries > 0


def test_a_version_in_which_nothing_is_found_is_refused_and_the_one_before_serves(serving):
    async def work(service):
        tries = broken_for(service, "v000002")
        with pytest.raises(Problem) as refused:
            await service.change_items("add", [NEW])
        answer = await service.search(SearchRequest(query="case", mode="fast"))
        return refused.value, answer, await service.admin(), tries, service

    problem, answer, status, tries, service = serving(work)
    assert (problem.code, problem.status) == ("conflict", 409) and "trial searches" in problem.hint
    assert answer.versions["catalogue"] == "v000001" == service.store.current()
    assert rows(status)["v000002"]["state"] == "refused" and rows(status)["v000002"]["canary"] == 0.0
    assert any(check["name"] == "catalogue" and "v000002" in check["note"] for check in status["health"]["checks"])
    assert len(tries) == 1 and swaps(service, "canary") == 1.0 and status["health"]["ready"]


def test_a_version_of_another_process_is_tried_once_and_its_pointer_goes_back(serving, run_folder):
    async def work(service):
        tries = broken_for(service, "v000002")
        await asyncio.to_thread(service.store.warm)  # both would make the encoder under the name of one process
        await asyncio.to_thread(CatalogueStore(run_folder).add, [NEW])
        await until(lambda: swaps(service, "canary") == 1.0)
        await until(lambda: service.store.current() == "v000001")
        await asyncio.sleep(0.6)  # the guard looks every quarter of a second
        return tries, service.index.name, service.health()

    tries, name, health = serving(work)
    assert (len(tries), name) == (1, "v000001")
    assert health["refused_catalogue"] and health["model"] == "ok"


def lost(job: Job) -> bool:
    """The process that decodes has ended."""
    job.fail(ModelError("away"))
    return True


def late(job: Job) -> bool:
    """Others were before it."""
    job.give(Outcome(rung=None, why="too few ms were left", degraded=("deadline",)))
    return True


def busy(job: Job) -> bool:
    """The server stops, or the queue was longer than the deadline."""
    job.give(Outcome(rung=None, why="busy", degraded=("model_busy",)))
    return True


def hung(job: Job) -> bool:
    """No answer comes."""
    return True


def full(job: Job) -> bool:
    """The queue has no room."""
    return False


def away_for_trials(service, how, times: int) -> list[Job]:
    """The model does not get to the next trial searches; those that it missed."""
    submit, missed = service.engine.submit, []

    def submitted(job: Job) -> bool:
        if job.is_trial and job not in missed and len(missed) < times:
            missed.append(job)
        if job in missed:
            return how(job)
        return submit(job)

    service.engine.submit = submitted
    return missed


@pytest.fixture
def impatient(monkeypatch) -> None:
    """Trials and the pauses between them are short."""
    monkeypatch.setattr("crsearch.serve.canary.SECONDS", 1.0)
    monkeypatch.setattr("crsearch.serve.present.RETRY_SECONDS", 0.3)


@pytest.mark.parametrize("how", [lost, late, busy, hung, full])
def test_a_version_that_could_not_be_tried_is_tried_again(serving, run_folder, impatient, how):
    async def work(service):
        await asyncio.to_thread(service.store.warm)  # both would make the encoder under the name of one process
        missed = away_for_trials(service, how, 1)
        await asyncio.to_thread(CatalogueStore(run_folder).add, [NEW])
        await until(lambda: service.present.last_error)
        away = service.index.name, service.store.current(), service.present.verdicts.get("v000002")
        error = service.present.last_error
        await until(lambda: service.index.name == "v000002" or service.store.current() == "v000001")
        there = service.index.name, service.store.current(), service.present.last_error
        return away, error, there, missed[0].is_cancelled, swaps(service, "canary")

    away, error, there, is_cancelled, refusals = serving(work)
    assert away == ("v000001", "v000002", None) and "v000002" in error
    assert there == ("v000002", "v000002", "") and refusals == 0
    assert is_cancelled == (how is hung)


def test_a_change_that_could_not_be_tried_is_told_so_and_comes_into_use_later(serving, impatient):
    async def work(service):
        away_for_trials(service, late, 1)
        with pytest.raises(Problem) as told:
            await service.change_items("add", [NEW])
        await until(lambda: service.index.name == "v000002" or service.store.current() == "v000001")
        return told.value, service.index.name

    problem, name = serving(work)
    assert (problem.code, problem.message, name) == ("conflict", "the new version is not in use yet", "v000002")


def test_a_start_on_a_version_that_could_not_be_tried_stays_and_tries_again(serving, run_folder, impatient):
    CatalogueStore(run_folder).add([NEW])  # while no server runs

    async def work(service):
        missed = away_for_trials(service, lost, 1)  # the trial of the start is still to come
        await until(lambda: service.present.verdicts.get("v000002") is not None)
        return len(missed), service.present.verdicts.get("v000002").is_good, service.index.name, service.store.current()

    assert serving(work) == (1, True, "v000002", "v000002")


def test_a_version_that_the_model_did_not_outlive_is_not_used_while_it_is_away(serving, impatient):
    async def work(service):
        engine = service.engine

        def dies(job: Job) -> bool:
            engine.failures = 3
            return lost(job)

        away_for_trials(service, dies, 1)
        with pytest.raises(Problem):
            await service.change_items("add", [NEW])
        await asyncio.sleep(1.0)  # the guard looks every quarter of a second
        away, engine.failures = service.index.name, 0
        await until(lambda: service.index.name == "v000002")
        return away

    assert serving(work) == "v000001"


def test_a_start_on_a_version_in_which_nothing_is_found_goes_back_one(serving, run_folder):
    CatalogueStore(run_folder).add([NEW])  # while no server runs

    async def work(service):
        first = service.index.name
        broken_for(service, "v000002")  # the trial of the start is still to come
        await until(lambda: service.index.name == "v000001")
        await until(lambda: service.present.last_error != "")
        return first, service.present.last_error, service.store.current()

    first, error, current = serving(work)
    assert (first, current) == ("v000002", "v000001") and "v000002" in error


def test_searches_are_answered_while_a_version_is_tried(serving):
    async def work(service):
        changing = asyncio.create_task(service.change_items("add", [NEW]))
        versions = []
        while not changing.done():
            versions.append((await service.search(SearchRequest(query=f"case {len(versions)}", mode="fast"))).versions)
        return versions, await changing

    versions, name = serving(work)
    assert versions and {v["catalogue"] for v in versions} <= {"v000001", name}
    assert versions[0]["catalogue"] == "v000001"


def test_items_can_be_removed_while_the_model_is_broken(serving):
    async def work(service):
        service.engine.failures = 3
        return await service.remove_items(["i00003"]), service.present.verdicts.get("v000002")

    assert serving(work) == ("v000002", None)


def test_items_that_are_removed_are_gone_at_once_without_a_trial(serving):
    async def work(service):
        tries = broken_for(service, "v000002")
        name = await service.remove_items(["i00003"])
        return name, tries, await service.item("i00003"), rows(await service.admin())[name]["canary"]

    assert serving(work) == ("v000002", [], None, None)


def test_trial_searches_are_of_validation_users(serving):
    async def work(service):
        return trial_contexts(service.space.dataset, 10), service.space.dataset

    contexts, dataset = serving(work)
    assert 0 < len(contexts) <= QUERIES
    assert {dataset.targets[c.search_id][1] for c in contexts} == {"valid"}


def test_a_verdict_that_cannot_be_read_is_none(tmp_path):
    file = tmp_path / "canary.json"
    good = Verdict(share=1.0, queries=32, ms=1.0, model="m")
    Verdicts(file).put("v000002", good)
    assert Verdicts(file).get("v000002") == good
    for text in ("", "[]", '{"v000002": 3}', '{"v000002": {"share": 1.0}}'):
        file.write_text(text)
        assert Verdicts(file).get("v000002") is None
    assert not Verdict(share=LEAST - 1e-9, queries=32, ms=1.0, model="m").is_good


def test_a_trial_lets_searches_pass_for_a_while_and_is_no_search_that_waits(serving):
    async def work(service):
        engine, index = service.engine, service.index
        now = time.monotonic()
        trial, search = (
            Job(index=index, trunk=(1, 2), mode="fast", deadline=now + 9 * is_trial + 1, is_trial=is_trial)
            for is_trial in (True, False)
        )
        engine._waiting = [trial, search]
        return engine.waiting, trial.due(now), trial.due(trial.came + TRIAL_SECONDS) < search.due(now)

    assert serving(work) == (1, math.inf, True)


def test_trials_are_decoded_alone_after_the_searches_that_wait(serving):
    async def work(service):
        engine, batches = service.engine, []
        whole = engine._decode

        def decode(jobs, todo):
            batches.append([job.is_trial for job in jobs])
            return whole(jobs, todo)

        engine._decode = decode
        trunk = service.index.prompts.trunk(trial_contexts(service.space.dataset, 10)[0]).ids
        late = time.monotonic() + 60
        jobs = [
            Job(index=service.index, trunk=trunk, mode="fast", deadline=late, is_trial=is_trial, came=late)
            for is_trial in (True, True, False, False)
        ]  # all came "later", so that no trial is overdue
        with engine._lock:  # all at once
            engine._waiting += jobs
            engine._lock.notify()
        return batches, [await asyncio.to_thread(job.future.result, 30) for job in jobs]

    batches, outcomes = serving(work)
    assert batches == [[False, False], [True], [True]]
    assert all(len(outcome.rows) == 10 for outcome in outcomes)


def test_new_items_are_found_below_the_model_even_if_a_removal_follows_at_once(serving, monkeypatch):
    monkeypatch.setattr("crsearch.serve.service.RENEW_SECONDS", 3.0)
    made, built = Index._built, []

    def counted(index, name):
        built.append((index.name, name))
        return made(index, name)

    async def work(service):
        await until(lambda: service.below.ms[Rung.FUSED](1) < NEVER_MS)  # all is warm
        monkeypatch.setattr(Index, "_built", counted)
        for n in range(2):
            await service.change_items("add", [replace(NEW, item_id=f"new{n}", title=f"glowing zebra {n}")])
        await service.remove_items(["i00003"])  # the items are the same: only fewer can be found
        await until(lambda: not service.index.is_stale)
        context = Context(search_id="s", user_id="", query="glowing zebra")
        return service.below.ranked(service.index, context, Rung.LEXICAL, 2, None).item_ids

    assert set(serving(work)) == {"new0", "new1"}
    assert sorted(built) == sorted(("v000004", name) for name in RUNG_SYSTEMS.values())  # once for all three


def test_after_a_rollback_the_rungs_below_the_model_answer_before_they_are_made_anew(serving, monkeypatch):
    async def work(service):
        await until(lambda: service.below.ms[Rung.FUSED](1) < NEVER_MS)  # all is warm
        zebras = [replace(NEW, item_id=f"new{n}", title=f"phone zebra {n}") for n in range(8)]
        await service.change_items("add", zebras)
        await until(lambda: not service.index.is_stale)
        monkeypatch.setattr("crsearch.serve.service.RENEW_SECONDS", 60.0)
        await service.rollback(None)
        context = Context(search_id="s", user_id="", query="phone zebra")
        lists = [service.below.ranked(service.index, context, rung, 2, None) for rung in RUNG_SYSTEMS]
        return service.index.is_stale, lists, service.index.catalogue.ids

    is_stale, lists, ids = serving(work)
    assert is_stale and all(len(found.item_ids) == 2 and {*found.item_ids} <= {*ids} for found in lists)


def test_a_renewal_that_ends_while_a_version_is_read_leaves_no_old_system_for_new(serving):
    """Systems of the version in use are copied while they are replaced by new ones."""

    class Ending(dict):
        def keys(self):
            index.is_stale = False
            return super().keys()

        __iter__ = None  # so that ``dict`` asks for the keys

    async def work(service):
        nonlocal index
        index = service.index
        index.is_stale, index._searchers = True, Ending(index._searchers)
        return Index(service.space, service.store.load(), service.tokenizer, service.final, index).is_stale

    index = None
    assert serving(work)


def test_after_new_items_bm25_is_made_once_and_no_encoder_is_fitted(serving, monkeypatch):
    made = Counter()

    def counted(owner, name, what):
        whole = getattr(owner, name)

        def work(*args, **options):
            made[what] += 1
            return whole(*args, **options)

        monkeypatch.setattr(owner, name, work)

    async def work(service):
        await until(lambda: service.below.ms[Rung.FUSED](1) < NEVER_MS)  # all is warm
        await service._in_pool(service.store.warm)
        counted(Bm25Searcher, "__init__", "bm25")
        counted(LsaEncoder, "fit", "encoder")
        await service.change_items("add", [replace(NEW, item_id="new0", title="phone glowing zebra")])
        await until(lambda: not service.index.is_stale)
        index, context = service.index, Context(search_id="s", user_id="", query="glowing zebra")
        words = index.searcher("dense").search([replace(context, query="phone")], 50)[0].item_ids
        return service.below.ranked(index, context, Rung.FUSED, 1, None).item_ids, words

    fused, words = serving(work)
    assert fused == ("new0",), "of new words BM25 alone knows, and the fused list has them"
    assert "new0" in words, "what the encoder knows of a new item is enough to find it"
    assert made == {"bm25": 1}
