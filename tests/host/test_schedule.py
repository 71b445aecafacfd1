"""Which rows are answered when: it follows from tokens, and slots are refilled."""

import numpy as np

from grpojax.host._drive import choose, Status


def status(asks, running):
    """Of one shard whose rows have waited in reverse order."""
    asks = np.asarray(asks, bool)[None]
    order = np.arange(asks.size)[::-1][None]
    zeros = np.zeros_like(asks)
    return Status(asks, order, order, order, zeros, zeros, order, np.array([running]))


def test_the_oldest_are_answered_when_a_quarter_of_the_slots_can_be_filled():
    chosen = lambda waiting, running, slots: np.flatnonzero(
        choose(status(np.arange(64) < waiting, running), slots)[0]
    ).tolist()
    assert chosen(10, 16, 16) == []  # Every slot has a row.
    assert chosen(40, 13, 16) == []  # Three are idle.
    assert chosen(40, 12, 16) == [36, 37, 38, 39]  # The oldest four.
    assert chosen(31, 33, 64) == [] and len(chosen(32, 32, 64)) == 16
    assert chosen(3, 0, 16) == [0, 1, 2]  # Nothing else runs.
    assert chosen(3, 1, 4) == [1, 2] and chosen(1, 1, 4) == []


def simulate(rows, slots, turns, tool, *, pause=16, seed=0):
    """Iterations of decoding, and those for which the device waits for a tool.

    A tool takes as long as so many iterations. Lengths of turns are exponential.
    """
    draw = np.random.default_rng(seed)
    left = np.ceil(draw.exponential(60.0, (rows, turns))).astype(int)
    turn, remaining = np.zeros(rows, int), left[:, 0].copy()
    fresh, running = list(range(rows)), []
    asked, order, now, waited, busy = {}, {}, 0, 0, 0
    while fresh or running or asked:
        for _ in range(pause):
            while fresh and len(running) < slots:
                running.append(fresh.pop(0))
            if not running:
                break
            remaining[running] -= 1
            now, busy = now + 1, busy + 1
            for row in [x for x in running if remaining[x] == 0]:
                running.remove(row)
                order[row] = len(order) + now * rows
                asked[row] = None
        for row in [x for x in asked if asked[x] is None]:
            asked[row] = now + tool  # Calls begin at a pause.
        asks = np.isin(np.arange(rows), list(asked))
        seen = status(asks, len(running))._replace(
            order=np.array([[order.get(x, -1) for x in range(rows)]])
        )
        for row in np.flatnonzero(choose(seen, slots)[0]).tolist():
            late = max(0, asked.pop(row) - now)
            now, waited = now + late, waited + late
            turn[row] += 1
            if turn[row] < turns:
                remaining[row] = left[row, turn[row]]
                running.append(row)
    return busy, waited


def test_the_device_hardly_waits_for_a_slow_tool():
    """64 rows of four turns; a call takes as long as so many tokens."""
    for slots, tool in ((64, 20), (16, 20), (8, 100)):
        busy, waited = simulate(64, slots, 4, tool=tool)
        assert waited < 0.1 * (busy + waited)
        # A rollout that waited for each of its 256 calls would wait longer.
        assert waited < 0.1 * 256 * tool
