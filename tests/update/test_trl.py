"""Loss, gradient and metrics equal TRL 1.16's on all of its reference cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grpojax.update import Scores

from . import trl


NAMES = {
    "entropy": "entropy",
    "kl": "kl",
    "clip_ratio/low_mean": "clip_low",
    "clip_ratio/high_mean": "clip_high",
}


@pytest.mark.parametrize("wide, tolerance", [(True, 1e-12), (False, 1e-6)])
def test_all_cases(wide, tolerance):
    reference = trl.load()
    assert len(reference["cases"]) == 96
    with jax.enable_x64(wide):
        dtype = jnp.float64 if wide else jnp.float32
        inputs = {n: jnp.asarray(x, dtype) for n, x in reference["inputs"].items()}
        failed = {}
        for case in reference["cases"]:
            cfg = case["cfg"]
            objective, scale = trl.objective(cfg), trl.scale(cfg)
            frozen = objective.prepare(trl.frozen(cfg, inputs))

            def loss(log_prob, objective=objective, frozen=frozen):
                return objective(Scores(log_prob, inputs["ent"], frozen))

            value_and_grad = jax.value_and_grad(loss, has_aux=True)
            (value, measured), gradient = value_and_grad(inputs["logp"])
            assert value.dtype == gradient.dtype == dtype
            gaps = [abs(float(value) * scale - case["loss"])]
            gaps += [np.abs(gradient * scale - np.asarray(case["grad"])).max()]
            count = frozen.mask.sum()
            for theirs, ours in NAMES.items():
                if theirs in case["metrics"]:
                    mean = float(measured[ours].sum() / count)
                    gaps.append(abs(mean - case["metrics"][theirs]))
            if max(gaps) > tolerance:
                failed[case["name"]] = max(gaps)
        assert not failed
