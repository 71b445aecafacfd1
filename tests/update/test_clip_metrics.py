"""`clip_ratio/*` of an update mean what they mean in TRL."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grpojax import update
from grpojax.update import Batch, LossInputs
from grpojax.update._metrics import MetricAccumulator

from . import trl


def measure(objective, batch, log_prob, split=((0, 1, 2, 3, 4, 5),)):
    """The metrics of rows `[row time]`, accumulated over some microbatches."""
    rows = lambda x: None if x is None else jnp.asarray(x)[:, None]
    batch = Batch(*(rows(x) for x in vars(batch).values()))
    weights = objective.loss_weights(batch)
    total = None
    for part in split:
        included = jnp.isin(jnp.arange(batch.mask.shape[0]), jnp.array(part))[:, None]
        mask = batch.mask & included[..., None]
        own = Batch(**{**vars(batch), "mask": mask})
        inputs = LossInputs(rows(log_prob), rows(log_prob) * 0, own, weights)
        loss, measured = objective(inputs)
        found = MetricAccumulator.from_microbatch(
            loss, measured, inputs, included, objective.clips_rows
        )
        total = found if total is None else total + found
    assert total is not None
    return {name: float(x) for name, x in total.metrics().items()}


# Options of TRL's that change what is clipped, or of what it is a share.
CLIPPING = "base", "onpolicy", "delta", "tool"


@pytest.mark.parametrize(
    "split",
    [pytest.param((range(6),), marks=pytest.mark.slow), ((0, 4), (1, 5), (2, 3))],
)
def test_every_case_of_trl(split):
    reference, compared = trl.load(), 0
    with jax.enable_x64(True):
        inputs = {n: jnp.asarray(x, float) for n, x in trl.inputs().items()}
        for name, case in reference.items():
            if name.split("/")[2] not in CLIPPING:
                continue
            wanted = {x: y for x, y in case["metrics"].items() if "clip_ratio/" in x}
            if not wanted:
                continue
            batch, _ = trl.batch_and_weights(case["cfg"], inputs)
            parts = tuple(tuple(part) for part in split)
            found = measure(trl.objective(case["cfg"]), batch, inputs["logp"], parts)
            for metric, value in wanted.items():  # TRL's are float32.
                assert found[metric] == pytest.approx(value, abs=1e-7), name
                compared += 1
    assert compared > 100


RATIOS = np.array([[0.5, 0.5, 0.5, 0.5], [0.5, 1.0, 1.0, 1.0], [1.0, 9.0, 9.0, 9.0]])
MASK = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], bool)


def clips(ratio, delta=None, advantage=-1.0, mask=MASK):
    batch = Batch(jnp.full((3, 1), advantage), jnp.asarray(mask), jnp.zeros((3, 4)))
    surrogate = update.Clip(0.2, 0.28, delta=delta)
    objective = update.Objective(ratio=ratio, surrogate=surrogate)
    found = measure(objective, batch, jnp.log(jnp.asarray(RATIOS)), ((0, 1, 2),))
    return {x.removeprefix("clip_ratio/"): y for x, y in found.items() if "clip" in x}


def test_an_empty_row_is_no_row_of_the_extremes():
    found = clips(update.token_ratio)
    assert (found["low_mean"], found["low_min"]) == (1, 1)
    nothing = clips(update.token_ratio, mask=np.zeros_like(MASK))
    assert set(nothing.values()) == {0}


@pytest.mark.parametrize("ratio", [update.sequence_ratio, update.sequence_token_ratio])
def test_a_ratio_of_rows_counts_rows(ratio):
    """Two of three rows are clipped, and five of five tokens."""
    found = clips(ratio)
    assert found["low_mean"] == pytest.approx(2 / 3)
    assert found["low_min"] == 1


@pytest.mark.parametrize(("delta", "share"), [(None, 0.75), (1.5, 0.75), (1.2, 0)])
def test_a_ratio_that_is_bounded_first_is_not_clipped_above(delta, share):
    mask = np.array([[0] * 4, [0] * 4, [1] * 4], bool)
    found = clips(update.token_ratio, delta, 1.0, mask)
    assert found["high_mean"] == found["high_max"] == share
