"""The ledger of asynchronous rollouts, and the queue that obeys it."""

import random
import threading

import pytest

from grpojax.asynchronous import Ledger, RolloutQueue


@pytest.mark.parametrize(
    ("ledger", "version", "capacity"),
    [
        # The cases of AReaL's tests of its staleness manager.
        (Ledger(10, 4, 2), 0, 10),
        (Ledger(100, 4, 2), 0, 12),
        (Ledger(1000, 4, 2), 5, 32),
        (Ledger(10, 4, 2).begin(3), 0, 7),
        (Ledger(20, 4, 2).begin(5).accept(5), 0, 7),
        (Ledger(5, 2, 10).begin(3), 0, 2),
        (Ledger(100, 4, 2).begin(12), 0, 0),
        (Ledger(100, 4, 2).begin(13), 0, -1),
        (Ledger(100, 4, 2).begin(12).reject(2), 0, 2),
        (Ledger(100, 4, 2).resume(7), 7, 12),
    ],
)
def test_capacity(ledger, version, capacity):
    assert ledger.capacity(version) == capacity


def test_none_is_staler_than_the_bound():
    """10^4 schedules of beginnings, ends, rejections, steps and restarts."""
    rng = random.Random(0)
    assert sum(run_schedule(rng) for _ in range(10_000)) > 10_000


def run_schedule(rng: random.Random) -> int:
    """The number of steps that a random schedule takes."""
    ledger = Ledger(rng.randint(1, 9), rng.randint(1, 4), rng.randint(0, 4))
    version = 0
    running, done, began = set(), set(), []
    for _ in range(40):
        action = rng.choice(["begin", "end", "end", "step", "restart"])
        if action == "begin" and ledger.capacity(version) > 0:
            count = rng.randint(1, ledger.capacity(version))
            ledger = ledger.begin(count)
            running |= set(range(len(began), len(began) + count))
            began += [version] * count
        elif action == "end" and running:
            ended = rng.choice(sorted(running))
            running.remove(ended)
            if rng.random() < 0.3:
                ledger = ledger.reject()
            else:
                ledger = ledger.accept()
                done.add(ended)
        elif action == "step":
            batch = sorted(done)[: ledger.batch]
            # In the order in which they began: none overtakes one that runs.
            if len(batch) == ledger.batch and batch[-1] < min(running, default=10**9):
                done -= set(batch)
                behind = [version - began[x] for x in batch]
                assert max(behind) <= ledger.max_staleness
                version += 1
        elif action == "restart" and rng.random() < 0.1:
            ledger, running, done = ledger.resume(version), set(), set()
        assert ledger.running == len(running) <= ledger.max_concurrent
        fresh = (version + 1 + ledger.max_staleness) * ledger.batch
        assert ledger.accepted + ledger.running <= fresh
    return version


def test_batches_in_order_within_the_bound():
    """Every third rollout is rejected; the others are trained on once."""
    version, lock, began, trained = 0, threading.Lock(), [], []

    def task():
        with lock:
            number = len(began)
            began.append(version)
        return None if number % 3 == 2 else (number, began[number])

    with RolloutQueue(Ledger(4, 2, 1)) as queue:
        for version in range(20):
            queue.set_version(version)
            batch = queue.prepare_batch(task)
            assert len(batch) == 2
            assert all(version - at <= 1 for _, at in batch)
            trained += [number for number, _ in batch]
        assert queue.ledger.rejected > 0
    assert len(set(trained)) == 40


def test_a_synchronous_queue_starts_nothing_early():
    with RolloutQueue(Ledger(8, 2, 0)) as queue:
        assert [queue.submit(lambda i=i: i) for i in range(4)] == [0, 1, 2, 3]
        assert queue.wait(2) == [0, 1]
        assert queue.ledger == Ledger(8, 2, 0, accepted=2)
        with pytest.raises(TimeoutError, match="Received 0"):
            queue.wait(1, timeout=0.01)
        queue.set_version(1)
        assert queue.wait(2) == [2, 3]


def test_an_error_is_raised_by_the_next_call():
    def fails():
        raise OSError("no disk")

    with RolloutQueue(Ledger(1, 1, 0)) as queue:
        queue.submit(fails)
        with pytest.raises(OSError, match="no disk"):
            queue.wait(1)
        queue.submit(lambda: "next")
        assert queue.wait(1) == ["next"]
    with pytest.raises(ValueError, match="batch"):
        RolloutQueue(Ledger(1, 0, 0))
