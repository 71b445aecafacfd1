"""Metrics are read a few steps at a time, and none is lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grpojax.runs.io.samples import Samples
from grpojax.runs.training.metrics_buffer import MetricsBuffer
from grpojax.types import Prompt


class CountedTransfers:
    """Counts the transfers from the device to the host."""

    def __init__(self, monkeypatch):
        self.count, get = 0, jax.device_get

        def counting(tree):
            self.count += 1
            return get(tree)

        monkeypatch.setattr(jax, "device_get", counting)


def metrics(step):
    return {"number": jnp.asarray(float(step))}


def samples(step):
    """One completion of one token, which is the step's number."""
    return Samples(
        prompt=Prompt(jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)),
        tokens=jnp.full((1, 1, 1), step),
        sampled=jnp.ones((1, 1, 1), bool),
        log_prob=jnp.zeros((1, 1, 1)),
        terminated=jnp.ones((1, 1), bool),
        rewards={},
    )


def add_all(buffer, steps):
    with buffer:
        for step in steps:
            buffer.add(step, metrics(step), None)


@pytest.mark.parametrize("every", [1, 3, 10])
def test_metrics_are_read_once_an_interval_and_none_is_lost(every, monkeypatch):
    transfers, records = CountedTransfers(monkeypatch), []
    add_all(MetricsBuffer(records.append, every=every), range(1, 8))
    assert transfers.count == -(-7 // every)
    # A resumed run reads at the same steps.
    add_all(MetricsBuffer(records.append, every=every), range(8, 9))
    assert [record.step for record in records] == list(range(1, 9))
    for record in records:
        assert set(record.metrics) == {"step_time", "number"}
        assert isinstance(record.metrics["number"], float)
        assert record.metrics["number"] == record.step
        assert record.metrics["step_time"] >= 0
        assert record.samples is None


def test_a_resumed_run_reads_at_the_steps_of_an_uninterrupted_one(monkeypatch):
    transfers, records = CountedTransfers(monkeypatch), []
    with MetricsBuffer(records.append, every=4) as buffer:
        for step, read in ((6, 0), (7, 0), (8, 3), (9, 3)):
            buffer.add(step, metrics(step), None)
            assert len(records) == read
    assert [record.step for record in records] == [6, 7, 8, 9]
    assert transfers.count == 2


def test_pending_metrics_are_reported_when_a_step_fails():
    records = []
    with pytest.raises(RuntimeError, match="lightning"):
        with MetricsBuffer(records.append, every=3) as buffer:
            for step in range(1, 5):
                buffer.add(step, metrics(step), None)
            raise RuntimeError("lightning")
    assert [record.step for record in records] == [1, 2, 3, 4]


def test_a_flush_reports_everything_once():
    records = []
    with MetricsBuffer(records.append, every=4) as buffer:
        buffer.flush()
        assert records == []
        buffer.add(1, metrics(1), None)
        buffer.add(2, metrics(2), None)
        assert records == []
        buffer.flush()
        buffer.flush()
        assert [record.step for record in records] == [1, 2]
        buffer.add(3, metrics(3), None)
    assert [record.step for record in records] == [1, 2, 3]


def test_samples_are_those_of_the_last_step_read_together():
    records = []
    with MetricsBuffer(records.append, every=2) as buffer:
        for step in range(1, 6):
            buffer.add(step, metrics(step), samples(step))
    found = {r.step: r.samples for r in records if r.samples is not None}
    assert {step: int(x.tokens[0, 0, 0]) for step, x in found.items()} == {
        2: 2,
        4: 4,
        5: 5,
    }
    assert all(isinstance(x.tokens, np.ndarray) for x in found.values())


def test_metrics_of_the_steps_before_one_that_fails_are_reported(monkeypatch):
    """A device reports the failure of a step when its metrics are read."""
    get, records = jax.device_get, []

    def failing(tree):
        if any(x == 3.0 for x in jax.tree.leaves(tree)):
            raise jax.errors.JaxRuntimeError("INTERNAL: step 3")
        return get(tree)

    monkeypatch.setattr(jax, "device_get", failing)
    with pytest.raises(jax.errors.JaxRuntimeError, match="step 3"):
        add_all(MetricsBuffer(records.append, every=4), range(1, 5))
    assert [record.step for record in records] == [1, 2]
    assert all(record.metrics["number"] == record.step for record in records)
