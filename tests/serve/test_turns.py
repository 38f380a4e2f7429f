"""One piece of work a turn of the event loop."""

import asyncio

from crsearch.serve.turns import Turns


def test_what_comes_meanwhile_is_looked_at_after_one_piece_of_work():
    async def work():
        turns, order = Turns(), []

        async def piece(n):
            await turns.next()
            order.append(n)

        async def other():
            for _ in range(3):
                order.append("other")
                await asyncio.sleep(0)

        await asyncio.gather(*(piece(n) for n in range(4)), other())
        return order

    order = asyncio.run(work())
    assert [o for o in order if o != "other"] == [0, 1, 2, 3]
    assert order.index("other") <= 1 and order.index(3) > max(n for n, o in enumerate(order) if o == "other")


def test_who_leaves_the_line_holds_nobody_up():
    async def work():
        turns, order = Turns(), []

        async def piece(n):
            await turns.next()
            order.append(n)

        tasks = [asyncio.create_task(piece(n)) for n in range(5)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.wait_for(turns.next(), 1)
        return order

    assert asyncio.run(work()) == [0, 1, 3, 4]


def test_the_wait_is_what_turns_take_times_who_waits():
    async def work():
        turns = Turns()

        async def piece():
            await turns.next()
            end = asyncio.get_running_loop().time() + 0.002
            while asyncio.get_running_loop().time() < end:
                pass

        tasks = [asyncio.create_task(piece()) for _ in range(60)]
        for _ in range(42):
            await asyncio.sleep(0)
        waits = turns.wait_ms
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)
        return waits, turns.wait_ms

    during, after = asyncio.run(work())
    assert 20 < during < 2_000 and after == 0
