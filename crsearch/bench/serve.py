"""``crsearch bench serve``: latencies of every rung, throughput, overload and start of a served run.

The server runs in a process of its own on this machine, the client in another; both share its cores, so the figures
are what a machine of this size gives to somebody who searches from it.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crsearch.bench.figures import Figure, percentile
from crsearch.bench.load import Client, Reply, Served, closed_loop, open_loop, serving
from crsearch.errors import RunError
from crsearch.pipeline.finished import finished

DEADLINE = 500
"""Of the overload, in ms."""


def bench_serve(run: Path, *, seconds: float = 60.0, requests: int = 300) -> list[Figure]:
    """Measure a served run.

    Args:
        run: a finished run.
        seconds: of the overload.
        requests: of each latency.

    Raises:
        RunError: no finished run, or the server does not start.
    """
    finished(run)  # the server would only say that it did not start
    return asyncio.run(_bench(run, seconds, requests))


async def _bench(run: Path, seconds: float, requests: int) -> list[Figure]:
    async with serving(run) as server:
        client = Client(server.url)
        contexts = await queries(client, requests)
        figures = [Figure(key="L10", what="cold start to ready", value=server.ready_seconds, unit="s", floor=5.0)]
        figures += await _latencies(client, contexts)
        figures += await _below_the_model(run, contexts)
        peak = await _throughput(client, contexts)
        figures.append(peak)
        figures += await _overload(client, server, contexts, peak.value, seconds)
        await client.close()
    return figures


async def queries(client: Client, number: int) -> list[dict[str, Any]]:
    """Searches of as many users of the run, one each; fewer users give several.

    Raises:
        RunError: the run has no user who searched.
    """
    users = (await client.get("/v1/users?limit=100")).body["users"]
    words = (await client.get("/v1/suggest?limit=50")).body["suggestions"] or [u["last_query"] for u in users]
    if not users or not any(words):
        raise RunError("the run has no users who searched: there is nothing to ask")
    pairs = [{"query": q, "user_id": u["user_id"]} for q in words if q for u in users]
    step = max(1, len(pairs) // number)
    return pairs[::step][:number]


def sent(contexts: Sequence[dict[str, Any]], **more: object) -> list[dict[str, Any]]:
    """The same searches with other options."""
    return [{**context, **more} for context in contexts]


async def _latencies(client: Client, contexts: Sequence[dict[str, Any]]) -> list[Figure]:
    patient = {"deadline_ms": 10_000}
    fast = await closed_loop(client, "/v1/search", sent(contexts, mode="fast", **patient), 1)
    fresh = await closed_loop(client, "/v1/search", sent(contexts, mode="think", **patient), 1)
    cached = await closed_loop(client, "/v1/search", sent(contexts, mode="think", **patient), 1)
    suggest = [await client.get(f"/v1/suggest?q={c['query'][:2].replace(' ', '+')}") for c in contexts]
    by_rung = {"L3": _of(fast, "L3"), "L0": [*_of(fresh, "L0"), *_of(fresh, "L2")], "L1": _of(cached, "L1")}
    around = [r.ms - r.body["timings_ms"]["total"] for r in fast if r.status == 200]

    def n(rung: str) -> str:
        return f"{len(by_rung[rung])} requests, one at a time"

    out = [
        Figure(key="L1", what="no thought, p50", value=percentile(by_rung["L3"], 50), unit="ms", floor=60, how=n("L3")),
        Figure(
            key="L1", what="no thought, p99", value=percentile(by_rung["L3"], 99), unit="ms", floor=200, how=n("L3")
        ),
        Figure(key="L2", what="fresh thought, p50", value=percentile(by_rung["L0"], 50), unit="ms", how=n("L0")),
        Figure(
            key="L2", what="fresh thought, p99", value=percentile(by_rung["L0"], 99), unit="ms", floor=800, how=n("L0")
        ),
    ]
    if by_rung["L1"]:
        over = percentile(by_rung["L1"], 50) - percentile(by_rung["L3"], 50)
        out.append(Figure(key="L3", what="cached thought over none, p50", value=over, unit="ms", floor=10, how=n("L1")))
    took = [r.ms for r in suggest if r.status == 200]
    out.append(
        Figure(
            key="L4",
            what="suggestions, p99",
            value=percentile(took, 99),
            unit="ms",
            floor=30,
            how=f"{len(took)} requests",
        )
    )
    out.append(
        Figure(
            key="L6",
            what="web layer, p50",
            value=percentile(around, 50),
            unit="ms",
            floor=3,
            how="client's time minus the server's own total",
        )
    )
    return out


def _of(replies: Sequence[Reply], rung: str) -> list[float]:
    return [r.ms for r in replies if r.status == 200 and r.rung == rung]


async def _below_the_model(run: Path, contexts: Sequence[dict[str, Any]]) -> list[Figure]:
    """The rungs that no request can ask for by name, in this process."""
    from crsearch.serve.config import ServeConfig
    from crsearch.serve.contract import Rung, SearchRequest
    from crsearch.serve.service import SearchService

    service = SearchService(run, ServeConfig(), writes=False)
    took: dict[Rung, list[float]] = {Rung.FUSED: [], Rung.LEXICAL: []}
    for context in contexts:
        asked = service.contexts.context(SearchRequest(**context), context["query"])
        for rung, ms in took.items():
            begun = time.perf_counter()
            service.below.ranked(service.index, asked, rung, 10, None)
            ms.append(1e3 * (time.perf_counter() - begun))
    await service.stop()
    how = f"{len(contexts)} searches in one process"
    return [
        Figure(key="L4", what="BM25, p99", value=percentile(took[Rung.LEXICAL], 99), unit="ms", floor=30, how=how),
        Figure(key="L4", what="dense and BM25 fused, p99", value=percentile(took[Rung.FUSED], 99), unit="ms", how=how),
    ]


async def _throughput(client: Client, contexts: Sequence[dict[str, Any]]) -> Figure:
    """The best of several numbers of users that keeps p99 within 200 ms; the best of all where none does."""
    found = []
    for users in (2, 4, 8, 16):
        begun = time.perf_counter()
        asked = [{**c, "place": f"{users} {n}"} for n, c in enumerate(contexts)]
        replies = await closed_loop(client, "/v1/search", sent(asked, mode="fast", deadline_ms=2_000), users)
        rate = len(_of(replies, "L3")) / (time.perf_counter() - begun)
        found.append((percentile([r.ms for r in replies], 99) <= 200, rate, users))
    keeps, rate, users = max(found)
    how = f"{users} users at once, {len(contexts)} searches" + ("" if keeps else ", p99 above 200 ms")
    return Figure(
        key="L7", what="no thought, searches a second", value=rate, unit="1/s", floor=30, better="higher", how=how
    )


async def _overload(
    client: Client, server: Served, contexts: Sequence[dict[str, Any]], peak: float, seconds: float
) -> list[Figure]:
    before = server.rss_mib
    # each is asked from another place, since equal searches at one time would share their work
    values = [
        {**c, "place": f"place {n}"} for n, c in enumerate(sent(contexts, mode="fast", deadline_ms=DEADLINE) * 50)
    ]
    calm = await open_loop(client, "/v1/search", values, 0.9 * peak, min(seconds, 20))
    begun, spent, own = time.perf_counter(), server.cpu_seconds, time.process_time()
    replies = await open_loop(client, "/v1/search", values, 5 * peak, seconds)
    took = time.perf_counter() - begun
    shares = [(b - a) / took for a, b in zip(spent, server.cpu_seconds, strict=True)]
    cores = (
        f"cores: front {shares[0]:.2f}, decoding {sum(shares[1:]):.2f}, client {(time.process_time() - own) / took:.2f}"
    )
    accepted = [r.ms for r in replies if r.status == 200]
    refused = [r.ms for r in replies if r.status == 429]
    lost = [r for r in replies if r.status not in (200, 429)]
    late = sum(r.ms > 1.1 * DEADLINE for r in calm) / max(1, len(calm))
    rungs = Counter(r.rung for r in replies if r.status == 200)
    by_model = sum(n for rung, n in rungs.items() if rung <= "L3")
    how = f"{5 * peak:.0f} requests a second for {seconds:.0f} s: {len(accepted)} answered, {len(refused)} refused"
    return [
        Figure(
            key="L5",
            what="later than the deadline + 10 % at 90 % load",
            value=100 * late,
            unit="%",
            floor=1,
            how=f"{len(calm)} requests",
        ),
        Figure(
            key="L5",
            what="refused at 90 % load",
            value=100 * sum(r.status == 429 for r in calm) / max(1, len(calm)),
            unit="%",
            how=f"{len(calm)} requests",
        ),
        Figure(
            key="L9",
            what="goodput at five times the load",
            value=100 * len(accepted) / seconds / peak,
            unit="%",
            floor=80,
            better="higher",
            how=f"{how}; {cores}",
        ),
        Figure(
            key="L9",
            what="of them with the model, over the peak",
            value=100 * by_model / seconds / peak,
            unit="%",
            better="higher",
            how=", ".join(f"{rung} {n}" for rung, n in sorted(rungs.items())),
        ),
        Figure(
            key="L9",
            what="time of a refusal, p99",
            value=percentile(refused, 99),
            unit="ms",
            floor=50,
            how=f"{len(refused)} refused",
        ),
        Figure(
            key="L9",
            what="client: sent later than due, p99",
            value=percentile([r.late_ms for r in replies], 99),
            unit="ms",
            how="the client shares the cores; as late as it sends, it sees what came",
        ),
        Figure(
            key="G1",
            what="accepted, p99 over the deadline",
            value=percentile(accepted, 99) / DEADLINE,
            unit="x",
            floor=1.2,
            how=f"{len(accepted)} answered",
        ),
        Figure(
            key="G1",
            what="neither answered nor refused",
            value=len(lost),
            unit="requests",
            floor=0,
            how=f"of {len(replies)}",
        ),
        Figure(
            key="G1",
            what="memory grown by",
            value=100 * (server.rss_mib / before - 1),
            unit="%",
            floor=10,
            how=f"{before:.0f} MiB before",
        ),
    ]
