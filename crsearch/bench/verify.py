"""``crsearch verify``: does a served run keep its promises under faults? On a copy of the run, which stays as it is.

Source: details: this project (docs/promises.md).
"""

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from crsearch.bench.figures import Figure, percentile
from crsearch.bench.load import Client, Reply, Served, children, closed_loop, open_loop, serving
from crsearch.bench.serve import queries, sent
from crsearch.errors import RunError
from crsearch.pipeline.finished import finished

NEW_ITEM = "crsearch-verify-new"
IN_FLIGHT = 20
G5_RATE = 50.0
"""Searches a second during which swaps must not slow the slowest ones down."""
PATIENT = {"mode": "fast", "deadline_ms": 10_000}


def verify(
    run: Path, *, swaps: int = 100, restarts: int = 50, soak_seconds: float = 600.0, hostile: Sequence[str] = ()
) -> list[Figure]:
    """Break a served run in many ways and count what was lost.

    Args:
        run: a finished run; a copy of it is served.
        swaps: of the catalogue under load.
        restarts: with SIGTERM, ``IN_FLIGHT`` requests under way.
        soak_seconds: of steady load.
        hostile: ids of the corpus of hostile requests; none = all.

    Raises:
        RunError: no finished run, or the server does not start.
    """
    finished(run)  # before anything is copied
    with tempfile.TemporaryDirectory(prefix="crsearch-verify-") as folder:
        copy = Path(folder) / "run"
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("serving", "report"))
        return asyncio.run(_verify(copy, swaps, restarts, soak_seconds, hostile))


async def _verify(run: Path, swaps: int, restarts: int, soak_seconds: float, hostile: Sequence[str]) -> list[Figure]:
    figures: list[Figure] = []
    async with _client(run) as (server, client):
        contexts = await queries(client, 200)
        rate = await _capacity(client, contexts)
        figures += await _visible(client)
        figures += await _swapped(client, contexts, 0.7 * rate, swaps)
        figures += await _swapped(client, contexts, min(G5_RATE, 0.7 * rate), swaps, key="G5", p99_floor=10)
        figures += await _soaked(server, client, contexts, 0.7 * rate, soak_seconds)
        figures += await _invalid(client)
        figures += await _hostile(server, hostile)
    figures += await _restarted(run, contexts, restarts)
    figures += await _killed(run, contexts)
    figures += await _decoding_killed(run, contexts)
    return figures


@asynccontextmanager
async def _client(run: Path, *settings: str) -> AsyncIterator[tuple[Served, Client]]:
    async with serving(run, *settings) as server:
        client = Client(server.url)
        try:
            yield server, client
        finally:
            await client.close()


async def _capacity(client: Client, contexts: Sequence[dict[str, Any]]) -> float:
    """Searches a second without a thought, eight users at a time."""
    begun = time.perf_counter()
    await closed_loop(client, "/v1/search", sent(contexts, **PATIENT), 8)
    return len(contexts) / (time.perf_counter() - begun)


def _record(item_id: str) -> dict[str, Any]:
    return {"item_id": item_id, "title": "crsearch verify"}


async def _visible(client: Client) -> list[Figure]:
    begun = time.perf_counter()
    added = await client.post("/v1/admin/items/add", {"items": [_record(NEW_ITEM)]})
    seen = await client.get(f"/v1/items/{NEW_ITEM}")
    shown = time.perf_counter() - begun
    begun = time.perf_counter()
    removed = await client.post("/v1/admin/items/remove", {"item_ids": [NEW_ITEM]})
    gone = await client.get(f"/v1/items/{NEW_ITEM}")
    hidden = time.perf_counter() - begun
    states = (added.status, seen.status, removed.status, gone.status)
    if states != (200, 200, 200, 404):
        raise RunError(f"adding and removing an item answered {states}, not (200, 200, 200, 404)")
    return [
        Figure(key="R8", what="a new item can be found after", value=shown, unit="s", floor=5),
        Figure(key="R8", what="a removed item is gone after", value=hidden, unit="s", floor=1),
    ]


async def _swapped(
    client: Client,
    contexts: Sequence[dict[str, Any]],
    rate: float,
    swaps: int,
    *,
    key: str = "R7",
    p99_floor: float | None = None,
) -> list[Figure]:
    """Swap the catalogue under load: an item comes and goes. An answer must be of one version."""
    values = sent(contexts, **PATIENT)
    calm = await open_loop(client, "/v1/search", values, rate, 10)
    versions: dict[str, bool] = {}
    done = asyncio.Event()

    async def swap() -> int:
        failed = 0
        for n in range(swaps):
            here = n % 2 == 0
            if here:
                reply = await client.post("/v1/admin/items/add", {"items": [_record(NEW_ITEM)]})
            else:
                reply = await client.post("/v1/admin/items/remove", {"item_ids": [NEW_ITEM]})
            failed += reply.status != 200
            if reply.status == 200:
                versions[reply.body["catalogue"]] = here
        done.set()
        return failed

    task = asyncio.create_task(swap())
    replies: list[Reply] = []
    while not done.is_set():
        replies += await open_loop(client, "/v1/search", values, rate, 2)
    failed = await task
    lost = [r for r in replies if r.status not in (200, 429)]
    refused = sum(r.status == 429 for r in replies)
    mixed = sum(
        any(item["id"] == NEW_ITEM for item in r.body["items"])
        and not versions.get(r.body["versions"]["catalogue"], True)
        for r in replies
        if r.status == 200
    )
    p99 = [percentile([r.ms for r in part if r.status == 200], 99) for part in (calm, replies)]
    how = f"{swaps} swaps while {len(replies)} searches came at {rate:.0f} a second"
    took = f"from {p99[0]:.0f} ms"
    return [
        Figure(key=key, what="searches that failed during swaps", value=len(lost), unit="searches", floor=0, how=how),
        Figure(key=key, what="searches refused during swaps", value=refused, unit="searches", how="the queue was full"),
        Figure(key=key, what="swaps that failed", value=failed, unit="swaps", floor=0, how=how),
        Figure(key=key, what="answers of mixed versions", value=mixed, unit="answers", floor=0, how=how),
        Figure(key=key, what="p99 grows by", value=p99[1] - p99[0], unit="ms", floor=p99_floor, how=took),
    ]


async def _soaked(
    server: Served, client: Client, contexts: Sequence[dict[str, Any]], rate: float, seconds: float
) -> list[Figure]:
    await open_loop(client, "/v1/search", sent(contexts, **PATIENT), rate, min(20.0, seconds))
    before, files = server.rss_mib, _files(server)
    replies = await open_loop(client, "/v1/search", sent(contexts, **PATIENT), rate, seconds)
    lost = sum(r.status not in (200, 429) for r in replies)
    how = f"{len(replies)} searches in {seconds:.0f} s"
    grown = 100 * (server.rss_mib / before - 1)
    return [
        Figure(key="R10", what="errors in the soak", value=lost, unit="errors", floor=0, how=how),
        Figure(key="R10", what="memory grown by", value=grown, unit="%", how=f"from {before:.0f} MiB"),
        Figure(key="G10", what="file descriptors more", value=_files(server) - files, unit="files", floor=5, how=how),
    ]


def _files(server: Served) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


async def _invalid(client: Client) -> list[Figure]:
    invalid = (await client.get("/v1/admin/status")).body["metrics"]["invalid_sids"]
    return [Figure(key="S4", what="invalid semantic IDs so far", value=invalid, unit="items", floor=0)]


async def _hostile(server: Served, only: Sequence[str]) -> list[Figure]:
    from crsearch.serve.doctor import examine

    report = await asyncio.to_thread(examine, server.url, None, only)
    how = f"{report.cases} requests of the corpus"
    return [
        Figure(
            key="S1",
            what="hostile requests not answered as they should",
            value=len(report.findings),
            unit="requests",
            floor=0,
            how=how,
        )
    ]


ARRIVAL = 0.05
"""Seconds after the first request of a restart is under way: what has not been taken by then was never promised."""


async def _restarted(run: Path, contexts: Sequence[dict[str, Any]], restarts: int) -> list[Figure]:
    """SIGTERM with requests under way: every one that was taken is answered, and the process ends with 0."""
    dropped = codes = 0
    took = []
    for n in range(restarts):
        async with _client(run) as (server, client):
            values = sent([*contexts[n:], *contexts[:n]], mode="think", deadline_ms=10_000)[:IN_FLIGHT]
            tasks = [asyncio.create_task(client.post("/v1/search", value)) for value in values]
            while (await client.get("/v1/admin/status")).body["metrics"]["queue"] == 0 and not all(
                t.done() for t in tasks
            ):
                await asyncio.sleep(0.005)
            await asyncio.sleep(ARRIVAL)
            begun = time.perf_counter()
            server.process.send_signal(signal.SIGTERM)
            dropped += sum(reply.status != 200 for reply in await asyncio.gather(*tasks))
            codes += await asyncio.to_thread(server.process.wait, 60) != 0
            took.append(time.perf_counter() - begun)
    how = f"{restarts} restarts with {IN_FLIGHT} requests under way"
    return [
        Figure(key="R9", what="requests dropped in restarts", value=dropped, unit="requests", floor=0, how=how),
        Figure(key="G4", what="exit codes other than 0", value=codes, unit="processes", floor=0, how=how),
        Figure(key="G4", what="longest end", value=max(took, default=0.0), unit="s", floor=30, how=how),
    ]


async def _killed(run: Path, contexts: Sequence[dict[str, Any]]) -> list[Figure]:
    """Kill one of two workers: the other answers, a new one comes, and what it knew is on the disk."""
    async with _client(run, "workers=2") as (server, client):
        workers = children(server.process.pid)
        await closed_loop(client, "/v1/search", sent(contexts[:20], **PATIENT), 4)
        os.kill(workers[-1], signal.SIGKILL)
        begun = time.perf_counter()
        replies = await closed_loop(client, "/v1/search", sent(contexts[:100], **PATIENT), 4)
        broken = sum(r.status == 0 for r in replies)
        while len(set(children(server.process.pid)) - set(workers)) == 0 and time.perf_counter() - begun < 60:
            await asyncio.sleep(0.1)
        again = time.perf_counter() - begun
        after = await closed_loop(client, "/v1/search", sent(contexts[:20], **PATIENT), 4)
    how = "kill -9 of one of two workers"
    return [
        Figure(
            key="G3",
            what="connections that broke with the worker",
            value=broken,
            unit="requests",
            how=f"{how}; {len(replies)} sent",
        ),
        Figure(
            key="G3",
            what="errors once the connections were gone",
            value=sum(r.status != 200 for r in after),
            unit="requests",
            floor=0,
            how=how,
        ),
        Figure(key="G3", what="a new worker is started after", value=again, unit="s", floor=60, how=how),
    ]


async def _decoding_killed(run: Path, contexts: Sequence[dict[str, Any]]) -> list[Figure]:
    """Kill the process that decodes: lower rungs answer until another is warm."""
    async with _client(run) as (server, client):
        await closed_loop(client, "/v1/search", sent(contexts[:20], **PATIENT), 4)
        os.kill(children(server.process.pid)[0], signal.SIGKILL)
        begun = time.perf_counter()
        replies = await closed_loop(client, "/v1/search", sent(contexts[:100], **PATIENT), 4)
        while replies[-1].rung != "L3" and time.perf_counter() - begun < 60:
            await asyncio.sleep(0.1)
            replies.append(await client.post("/v1/search", {**contexts[0], **PATIENT}))
        again = time.perf_counter() - begun
    lost = sum(r.status != 200 for r in replies)
    below = sum(r.rung > "L3" for r in replies)
    how = f"kill -9 of the process that decodes; {len(replies)} sent, {below} answered without the model"
    return [
        Figure(
            key="G3", what="searches lost with the process that decodes", value=lost, unit="searches", floor=0, how=how
        ),
        Figure(key="G3", what="the model answers again after", value=again, unit="s", floor=60, how=how),
    ]
