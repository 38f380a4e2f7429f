"""The measuring of a served run: the client, the loops, and the whole on a tiny run."""

import asyncio
import math
import time

import pytest
from tiny_run import run_tiny

from crsearch.bench.figures import Figure
from crsearch.bench.load import Client, closed_loop, open_loop
from crsearch.bench.serve import bench_serve
from crsearch.bench.verify import verify
from crsearch.errors import RunError


def figure(value: float, floor: float | None, better: str = "lower") -> Figure:
    return Figure(key="K", what="w", value=value, unit="ms", floor=floor, better=better)


def test_a_floor_is_held_from_the_right_side():
    assert figure(5.0, 5.0).holds is True and figure(5.1, 5.0).holds is False
    assert figure(5.0, 5.0, "higher").holds is True and figure(4.9, 5.0, "higher").holds is False
    assert figure(5.0, None).holds is None
    assert figure(math.nan, 5.0).holds is None and figure(math.nan, 5.0).plain()["value"] is None


async def _fake_server(delay: float, status: str = "200 OK"):
    """Answers every request after a delay, with the number of requests that are under way."""
    under_way = [0, 0]

    async def answer(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((int(h.split(b":")[1]) for h in head.lower().split(b"\r\n") if b"content-length" in h), 0)
                await reader.readexactly(length)
                under_way[0] += 1
                under_way[1] = max(under_way)
                await asyncio.sleep(delay)
                under_way[0] -= 1
                body = b'{"served_by": "L3"}'
                writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        except (EOFError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", under_way


def test_a_closed_loop_has_so_many_users_at_once_and_answers_all():
    async def work():
        server, url, under_way = await _fake_server(0.02)
        client = Client(url)
        replies = await closed_loop(client, "/", [{"n": n} for n in range(12)], users=3)
        await client.close()
        server.close()
        await asyncio.sleep(0.05)
        return replies, under_way[1]

    replies, most = asyncio.run(work())
    assert len(replies) == 12 and {(r.status, r.rung) for r in replies} == {(200, "L3")}
    assert most == 3
    assert all(r.ms >= 19 for r in replies)


def test_an_open_loop_sends_at_its_times_and_counts_from_when_a_request_was_due():
    """A server that takes 0.2 s does not slow the loop down: all are under way together."""

    async def work():
        server, url, under_way = await _fake_server(0.2)
        client = Client(url)
        begun = time.perf_counter()
        replies = await open_loop(client, "/", [{}], rate=50.0, seconds=0.2)
        await client.close()
        server.close()
        await asyncio.sleep(0.05)
        return replies, under_way[1], time.perf_counter() - begun

    replies, most, _ = asyncio.run(work())
    assert len(replies) == 10 and most > 3
    assert all(r.ms >= 199 for r in replies)


def test_what_a_busy_client_sends_late_is_told_as_its_own_delay():
    async def work():
        server, url, _ = await _fake_server(0.0)
        client = Client(url)
        loading = asyncio.create_task(open_loop(client, "/", [{}], rate=100.0, seconds=0.3))
        await asyncio.sleep(0.1)
        time.sleep(0.1)  # nobody in this process is looked at
        replies = await loading
        await client.close()
        server.close()
        await asyncio.sleep(0.05)
        return replies

    replies = asyncio.run(work())
    assert len(replies) == 30 and max(r.late_ms for r in replies) > 60
    assert all(0 <= r.late_ms <= r.ms for r in replies)


def test_a_connection_that_was_closed_while_idle_is_no_error():
    async def work():
        hangs_up = []

        async def answer(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            await writer.drain()
            hangs_up.append(1)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        replies = []
        for _ in range(3):
            replies.append(await client.get("/"))
            await asyncio.sleep(0.02)
        await client.close()
        server.close()
        return replies, len(hangs_up)

    replies, connections = asyncio.run(work())
    assert [r.status for r in replies] == [200, 200, 200] and connections == 3


def test_no_answer_is_status_0():
    assert asyncio.run(Client("http://127.0.0.1:9").get("/")).status == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "run"
    run_tiny(out)
    return out


@pytest.mark.parametrize("measure", [bench_serve, verify])
def test_a_folder_that_is_no_run_is_told_before_anything_starts(measure, tmp_path):
    with pytest.raises(RunError, match="no such run directory"):
        measure(tmp_path / "nothing")


@pytest.mark.slow
def test_a_tiny_run_is_measured_and_stays_as_it_is(run):
    before = sorted(str(p.relative_to(run)) for p in run.rglob("*") if "serving" not in p.parts)
    figures = {f"{f.key} {f.what}": f for f in bench_serve(run, seconds=1.0, requests=12)}
    assert {key.split()[0] for key in figures} == {"L10", "L1", "L2", "L3", "L4", "L6", "L7", "L5", "L9", "G1"} - (
        set() if any(k.startswith("L3 ") for k in figures) else {"L3"}
    )
    assert figures["G1 neither answered nor refused"].value == 0
    assert figures["L7 no thought, searches a second"].value > 0
    assert sorted(str(p.relative_to(run)) for p in run.rglob("*") if "serving" not in p.parts) == before


@pytest.mark.slow
def test_a_tiny_run_keeps_its_promises(run):
    """Swaps, restarts, a killed worker, a soak: nothing is lost, whatever the machine."""
    before = sorted(str(p.relative_to(run)) for p in run.rglob("*"))
    figures = verify(run, swaps=6, restarts=1, soak_seconds=2.0, hostile=("A5", "A7"))
    counted = [f for f in figures if f.floor == 0]
    assert len(counted) >= 8
    assert [(f.key, f.what, f.value) for f in counted if not f.holds] == []
    assert sorted(str(p.relative_to(run)) for p in run.rglob("*")) == before
