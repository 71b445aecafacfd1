"""Losses, gradients and metrics equal those that TRL 1.16 computes: `make_trl`."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grpojax.update import LossInputs

from ..helpers import mostly_slow
from . import trl
from .trl_cases import LOSS_TYPES


NAMES = {
    "entropy": "entropy",
    "kl": "kl",
    "clip_ratio/low_mean": "clip_low",
    "clip_ratio/high_mean": "clip_high",
    "cispo_clip_ratio": "clip_high",
}


FAST = [(x, True) for x in LOSS_TYPES]
ALL = [*FAST, *((x, False) for x in LOSS_TYPES)]


@pytest.mark.parametrize("loss_type, wide", mostly_slow(ALL, FAST))
def test_every_case(loss_type, wide):
    """Losses and gradients to 1e-12 in float64, and to 1e-6 in float32."""
    reference = {x: y for x, y in trl.load().items() if x.startswith(f"{loss_type}/")}
    assert len(reference) == 28
    with jax.enable_x64(wide):
        dtype = jnp.float64 if wide else jnp.float32
        inputs = {n: jnp.asarray(x, dtype) for n, x in trl.inputs().items()}
        failed = {}
        for name, case in reference.items():
            cfg = case["cfg"]
            objective, scale = trl.objective(cfg), trl.scale(cfg)
            batch, weights = trl.batch_and_weights(cfg, inputs)

            def loss(log_prob, objective=objective, fixed=(batch, weights)):
                return objective(LossInputs(log_prob, inputs["ent"], *fixed))

            value_and_grad = jax.value_and_grad(loss, has_aux=True)
            (value, measured), gradient = value_and_grad(inputs["logp"])
            assert value.dtype == gradient.dtype == dtype
            gaps = [abs(float(value) * scale - case["loss"])]
            gaps += [np.abs(gradient * scale - case["gradient"]).max()]
            if max(gaps) > (1e-12 if wide else 1e-6):
                failed[name] = max(gaps)
            count = int(batch.mask.sum())
            # Shares of rows, at the level of sequences, are `test_clip_metrics`'s.
            by_row = cfg["importance_sampling_level"] == "sequence"
            for theirs, ours in NAMES.items():
                if theirs in case["metrics"] and not (by_row and "clip" in theirs):
                    # TRL's shares are float32.
                    mean = float(measured[ours].sum() / count)
                    wanted = pytest.approx(case["metrics"][theirs], abs=1e-6)
                    assert mean == wanted, name
        assert not failed


def test_the_documents_program_prints_its_number(capsys):
    document = Path(__file__).resolve().parents[2] / "docs" / "trl.md"
    (block,) = re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)
    exec(compile(block, document.name, "exec"), {})
    assert capsys.readouterr().out == "0.014094\n"
