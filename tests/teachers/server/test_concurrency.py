"""How many requests are in flight: more while all goes well, fewer in trouble."""

import asyncio

from distill.teachers.server.concurrency import ConcurrencyLimit


def test_the_limit_widens_while_calm_and_narrows_in_trouble():
    async def go():
        limit = ConcurrencyLimit(64)
        widths = [limit.limit]
        for _ in range(400):
            await limit.enter()
            await limit.leave(calm=True)
        widths.append(limit.limit)
        await limit.enter()
        await limit.leave(calm=False)
        widths.append(limit.limit)
        for _ in range(10):  # the same burst
            await limit.enter()
            await limit.leave(calm=False)
        widths.append(limit.limit)
        return widths

    start, wide, cut, same_burst = asyncio.run(go())
    assert start == 4 and 15 < wide <= 64 and cut == 0.75 * wide and same_burst == cut
