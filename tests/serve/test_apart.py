"""Decoding in a process of its own: the same answers, and what happens when it dies, hangs or cannot start."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import OrderedDict

import pytest

from crsearch.errors import RunError
from crsearch.records.types import Context, Item
from crsearch.serve import decoding
from crsearch.serve.apart import Apart
from crsearch.serve.child import Unpacker, packed
from crsearch.serve.config import ServeConfig
from crsearch.serve.contract import Rung, SearchRequest
from crsearch.serve.jobs import Job
from crsearch.serve.problems import Problem
from crsearch.serve.service import SearchService

USER = "u00000"


def ask(query: str = "case", **more: object) -> SearchRequest:
    return SearchRequest.model_validate({"query": query, **more})


@pytest.fixture
def apart(run_folder):
    """``apart(work)``: do the work with a service whose model decodes in another process; what the work gave."""

    def run(work, **settings):
        async def life():
            config = ServeConfig.model_validate({"deadline_ms": 10_000, **settings})
            service = SearchService(run_folder, config, decoder=Apart(run_folder, config))
            await service.start()
            try:
                return await work(service)
            finally:
                await service.stop()

        return asyncio.run(life())

    return run


async def until(holds, seconds: float = 120.0) -> bool:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        await asyncio.sleep(0.02)
    return bool(holds())


def seen(answer) -> tuple:
    return answer.served_by, [(i.id, i.score) for i in answer.items], answer.reasoning and answer.reasoning.text


ASKED = [
    {"user_id": USER, "mode": "think"},
    {"user_id": USER, "mode": "fast", "top_k": 17},
    {"mode": "fast", "filters": {"price_max": 20.0}},
    {"history": [{"query": "phone", "clicked": ["i0"], "time": "2025-01-01T00:00:00Z"}], "systems": ["bm25", "crs"]},
]


def test_the_other_process_answers_what_this_one_would(serving, apart):
    async def work(service):
        answers = [await service.search(ask(**asked)) for asked in ASKED]
        stream = [e async for e in service.stream(ask(user_id=USER, mode="think", query="phone case"))]
        return answers, stream, service.engine.state

    (here, stream, _), (there, streamed, state) = serving(work), apart(work)
    assert [seen(a) for a in there] == [seen(a) for a in here]
    assert [a.compared for a in there] == [a.compared for a in here]
    assert [e.data for e in streamed if e.name == "thought"] == [e.data for e in stream if e.name == "thought"]
    assert seen(streamed[-1].data) == seen(stream[-1].data)
    assert state.answer_ms > 0 and state.invalid == 0


def test_a_process_that_is_killed_is_replaced_and_lower_rungs_answer_meanwhile(apart):
    async def work(service):
        first, pid = await service.search(ask(mode="fast")), service.engine.pid
        under_way = [asyncio.create_task(service.search(ask(f"phone case {n}", mode="think"))) for n in range(20)]
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        caught = await asyncio.gather(*under_way)
        assert await until(lambda: not service.ready)
        began = time.monotonic()
        meanwhile = await service.search(ask("phone case", mode="fast"))
        took = time.monotonic() - began
        assert await until(lambda: service.ready)
        after = await service.search(ask(mode="fast"))
        return first, caught, (meanwhile, took), after, (pid, service.engine.pid)

    first, caught, (meanwhile, took), after, (old, new) = apart(work)
    assert all(a.items for a in caught)
    assert {a.degraded for a in caught if a.served_by >= Rung.FUSED} <= {("model_error",)}
    assert meanwhile.served_by >= Rung.FUSED and meanwhile.degraded == ("model_error",) and meanwhile.items
    assert took < 5
    assert old != new and seen(after) == seen(first)


def test_a_version_during_whose_trial_the_process_is_killed_is_tried_again_and_used(apart, monkeypatch):
    monkeypatch.setattr("crsearch.serve.present.RETRY_SECONDS", 0.5)

    async def work(service):
        submit, killed = service.engine.submit, []

        def kill(job: Job) -> bool:
            taken = submit(job)
            if job.is_trial and not killed:
                killed.append(service.engine.pid)
                os.kill(service.engine.pid, signal.SIGKILL)
            return taken

        service.engine.submit = kill
        with pytest.raises(Problem, match="not in use yet"):
            await service.change_items("add", [Item(item_id="new", title="phone case glow")])
        current = service.store.current()
        assert await until(lambda: service.index.name == "v000002")
        return current, service.present.verdicts.get("v000002").is_good, killed != [service.engine.pid]

    assert apart(work) == ("v000002", True, True)


def test_a_process_that_hangs_is_replaced(apart, monkeypatch):
    monkeypatch.setattr("crsearch.serve.apart.HUNG_SECONDS", 3.0)

    async def work(service):
        pid = service.engine.pid
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        late = await service.search(ask("phone case", deadline_ms=1_500))
        waited = time.monotonic() - began
        assert await until(lambda: service.engine.pid != pid and service.ready)
        return late, waited, await service.search(ask(mode="fast"))

    late, waited, good = apart(work)
    assert late.degraded == ("model_busy",) and late.items and waited < 10
    assert good.served_by is Rung.DIRECT


def test_an_answer_is_of_one_version_while_versions_come_and_go(apart):
    """The index is asked for a version by name: what the process finds is what that version holds.

    What was removed before the answer was made is not shown; nothing that was added since is.
    """

    async def work(service):
        stop, answers = asyncio.Event(), []

        async def ask_on() -> None:
            while not stop.is_set():
                asked = [ask(f"glow {len(answers)} {n}", mode="fast", top_k=60) for n in range(4)]
                found = await asyncio.gather(*(service.search(a) for a in asked))
                answers.extend((answer, service.index.name) for answer in found)
                await asyncio.sleep(0.02)

        asking = asyncio.create_task(ask_on())
        holds = {service.index.name: False}
        for n in range(6):
            if n % 2:
                name = await service.remove_items(["new"])
            else:
                name = await service.change_items("add", [Item(item_id="new", title="phone case glow")])
            holds[name] = n % 2 == 0
            await asyncio.sleep(0.05)
        pid = service.engine.pid
        os.kill(pid, signal.SIGKILL)  # the next process begins with the version in use
        assert await until(lambda: service.engine.pid != pid and service.ready)
        await asyncio.sleep(0.2)
        stop.set()
        await asking
        return holds, answers

    holds, answers = apart(work, width=64)
    by_model = [(a, a.versions["catalogue"], present) for a, present in answers if a.served_by is Rung.DIRECT]
    assert len({began for _, began, _ in by_model}) > 2
    for answer, began, present in by_model:
        shown = "new" in {item.id for item in answer.items}
        assert shown == holds[began] or (holds[began] and began != present)
        assert len(answer.items) == 40 + shown
    assert {len(a.items) for a, _, _ in by_model} == {40, 41}


def test_a_forgotten_user_leaves_the_other_process_too(apart):
    async def work(service):
        await service.search(ask(user_id=USER, mode="fast"))
        return await service.forget(USER), await service.engine.forget(USER)

    dropped, again = apart(work)
    assert dropped > 0 and again == 0


def test_more_than_the_queue_holds_are_refused_and_cancelled_jobs_make_room(apart):
    async def work(service):
        asked = [ask(f"case {n}", mode="think") for n in range(30)]
        tasks = [asyncio.create_task(service.search(a)) for a in asked]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.ALL_COMPLETED)
        refused = [t for t in done if t.exception() is not None]
        return len(refused), {t.exception().code for t in refused}, service.engine.waiting

    refused, codes, waiting = apart(work, queue=3, batch=2)
    assert 0 < refused < 30 and codes == {"too_many_requests"} and waiting == 0


def test_each_job_that_is_taken_is_answered_though_all_come_at_once(apart):
    async def work(service):
        trunk, late = service.index.prompts.trunk(Context(search_id="s", user_id="", query="case")).ids, 60
        jobs = [
            Job(index=service.index, trunk=trunk, mode="fast", deadline=time.monotonic() + late, is_trial=n > 9)
            for n in range(12)
        ]
        taken = [service.engine.submit(job) for job in jobs]
        answers = [asyncio.wrap_future(job.future) for job, is_taken in zip(jobs, taken, strict=True) if is_taken]
        return taken, await asyncio.wait_for(asyncio.gather(*answers), late)

    taken, outcomes = apart(work, queue=2, batch=4)
    assert taken == [True] * 6 + [False] * 4 + [True] * 2, "a trial is never refused"
    assert {outcome.rung for outcome in outcomes} == {Rung.DIRECT}


def test_a_job_that_finds_the_queue_full_is_answered_at_once(serving):
    async def work(service):
        ours, theirs = socket.socketpair()
        ours.settimeout(5)
        with ours, theirs:
            host = decoding._Host(theirs)
            host.engine, host._indexes = service.engine, OrderedDict({service.index.name: service.index})
            service.engine.queue = 0
            told = {"mode": "fast", "deadline": time.monotonic() + 60, "filters": {}, "listens": False, "context": None}
            for n, system in enumerate(("", "bm25")):
                host._job(n, service.index.name, {**told, "system": system})
            return list(Unpacker().feed(ours.recv(1 << 16))), host._jobs

    (outcome, error), left = serving(work)
    assert outcome[:2] == ["outcome", 0] and outcome[2]["rung"] is None and outcome[2]["degraded"] == ["model_busy"]
    assert error == ["error", 1, f"ModelError: {decoding.FULL}"] and not left


def test_a_process_that_cannot_start_says_why(run_folder):
    async def work():
        config = ServeConfig()
        service = SearchService(run_folder, config)
        (run_folder / "results.json").unlink()
        engine = Apart(run_folder, config)
        with pytest.raises(RunError, match="not finished"):
            await engine.begin(service.index, [1, 2], 3)
        await engine.stop()

    asyncio.run(work())


def test_messages_come_out_whole_however_they_are_cut():
    sent = [["job", n, {"trunk": list(range(n)), "text": "手机壳" * n}] for n in range(8)]
    data = b"".join(packed(*message) for message in sent)
    for size in (1, 3, 7, len(data)):
        unpacker, got = Unpacker(), []
        for begin in range(0, len(data), size):
            got += list(unpacker.feed(data[begin : begin + size]))
        assert got == sent


UP = """
import asyncio, json, os, sys
from pathlib import Path
from crsearch.serve.apart import Apart
from crsearch.serve.app import create_app
from crsearch.serve.config import ServeConfig
from crsearch.serve.contract import SearchRequest
from crsearch.serve.service import SearchService

async def life(run, config):
    service = SearchService(run, config, decoder=Apart(run, config))
    create_app(service, config)
    await service.start()
    async with asyncio.timeout(60):
        while not service.store._newcomers:  # the last that comes behind readiness
            await asyncio.sleep(0.05)
    answer = await service.search(SearchRequest(query="case", mode="fast"))
    maps = Path(f"/proc/{service.engine.pid}/maps").read_text()
    await service.stop()
    return answer.served_by.value, "libtorch" in maps, "_sparsetools" in maps

found = asyncio.run(life(Path(sys.argv[1]), ServeConfig(deadline_ms=10_000)))
print(json.dumps([*found, sorted({"torch", "transformers"} & set(sys.modules))]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has loaded is read from /proc")
def test_only_the_process_that_decodes_has_loaded_torch_and_it_has_no_scipy(run_folder):
    done = subprocess.run([sys.executable, "-c", UP, str(run_folder)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == ["L3", True, False, []]
