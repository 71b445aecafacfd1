"""Loss, gradient and metrics equal TRL 1.16's on all of its reference cases."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grpojax.update import LossInputs

from ..helpers import mostly_slow
from . import trl


NAMES = {
    "entropy": "entropy",
    "kl": "kl",
    "clip_ratio/low_mean": "clip_low",
    "clip_ratio/high_mean": "clip_high",
    "cispo_clip_ratio": "clip_high",
}


@pytest.mark.parametrize(
    "wide, tolerance", mostly_slow([(True, 1e-12), (False, 1e-6)], [(True, 1e-12)])
)
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
            batch, weights = trl.batch_and_weights(cfg, inputs)

            def loss(log_prob, objective=objective, fixed=(batch, weights)):
                return objective(LossInputs(log_prob, inputs["ent"], *fixed))

            value_and_grad = jax.value_and_grad(loss, has_aux=True)
            (value, measured), gradient = value_and_grad(inputs["logp"])
            assert value.dtype == gradient.dtype == dtype
            gaps = [abs(float(value) * scale - case["loss"])]
            gaps += [np.abs(gradient * scale - np.asarray(case["grad"])).max()]
            count = int(batch.mask.sum())
            for theirs, ours in NAMES.items():
                if theirs in case["metrics"]:
                    mean = float(measured[ours].sum() / count)
                    gaps.append(abs(mean - case["metrics"][theirs]))
            if max(gaps) > tolerance:
                failed[case["name"]] = max(gaps)
        assert not failed


VARIANTS = {
    "base": {},
    "onpolicy": dict(old_is_none=True),
    "beta": dict(beta=0.04),
    "beta_bias": dict(beta=0.04, use_bias_correction_kl=True),
    "delta": dict(delta=1.25),
    "tool": dict(use_tool=True),
    "opsm": dict(off_policy_mask_threshold=0.05),
    "ent": dict(top_entropy_quantile=0.5),
    "entbonus": dict(entropy_coef=0.01),
    "is_tok": dict(
        vllm_importance_sampling_mode="token_truncate", vllm_importance_sampling_cap=3.0
    ),
    "is_seq": dict(
        vllm_importance_sampling_mode="sequence_truncate",
        vllm_importance_sampling_cap=3.0,
    ),
    "ga": dict(GA=2, SPG=4, num_items=40),
}
# TRL 1.16's losses in float64, a row for each `loss_type`, a column for each variant.
LOSSES = {
    "token": (
        "base onpolicy beta beta_bias delta tool opsm ent entbonus is_tok is_seq ga",
        """
grpo 0.06462400 0.05000000 0.06691414 0.06704686 0.05183095 0.04989648 -0.04017074
 0.04717941 0.05087474 0.06173498 0.06200906 0.03231200
bnpo 0.01073461 -0.01111111 0.01390155 0.01409411 -0.00588946 0.16027764 -0.09406013
 0.05389421 -0.00301464 0.00804503 0.00445127 0.00536731
dr_grpo 0.00402548 -0.00416667 0.00521308 0.00528529 -0.00220855 0.05342588
 -0.03527255 0.02021033 -0.00972378 0.00301689 0.00166923 0.00201274
dapo 0.01073461 -0.01111111 0.01390155 0.01409411 -0.00588946 0.16027764 -0.09406013
 0.05389421 -0.00301464 0.00804503 0.00445127 0.00966115
luspo 0.03220383 -0.03333333 0.04170466 0.04228233 -0.01766837 0.42740705 -0.28218039
 0.16168262 0.01845458 0.02413510 0.01335381 0.01610192
cispo 0.43287731 0.32975985 0.43604425 0.43623681 0.43287731 0.21177552 0.46629615
 0.17764047 0.41912806 0.45983270 0.44188649 0.38958958
sapo 0.05704942 0.07142857 0.05933957 0.05947229 0.05704942 0.05201689 -0.13836413
 0.07586393 0.04330017 0.05480539 0.05470068 0.02852471
vespo 0.30249223 0.32975985 0.30565917 0.30585173 0.30249223 0.02804189 0.30987944
 0.15838985 0.28874298 0.31591698 0.31591698 0.27224301
""",
    ),
    "sequence": (
        "base beta beta_bias tool opsm is_tok is_seq ga",
        """
grpo 0.04348163 0.04577178 0.04563424 0.02819337 -0.04985170 0.04263550 0.03979533
 0.02174082
bnpo -0.01279713 -0.00963019 -0.00983129 0.13128898 -0.10613047 -0.01251717
 -0.01970597 -0.00639857
dr_grpo -0.00479893 -0.00361132 -0.00368673 0.04376299 -0.03979893 -0.00469394
 -0.00738974 -0.00239946
dapo -0.01279713 -0.00963019 -0.00983129 0.13128898 -0.10613047 -0.01251717
 -0.01970597 -0.01151742
luspo -0.03839140 -0.02889058 -0.02949386 0.35010394 -0.31839140 -0.03755152
 -0.05911792 -0.01919570
cispo 0.32140167 0.32456861 0.32436751 0.17225654 0.34747872 0.34926368 0.33511091
 0.28926150
sapo 0.05745072 0.05974086 0.05960333 0.04216946 -0.13399148 0.05663472 0.05497846
 0.02872536
vespo 0.30249223 0.30565917 0.30545808 0.02804189 0.30987944 0.31591698 0.31591698
 0.27224301
""",
    ),
}


@pytest.mark.parametrize("level", LOSSES)
def test_all_losses_to_their_last_printed_digit(level):
    """All combinations, without a file; the sampler correction is computed here."""
    names, table = LOSSES[level][0].split(), LOSSES[level][1].split()
    width = len(names) + 1
    assert len(table) == 8 * width
    with jax.enable_x64(True):
        inputs = {name: jnp.asarray(x) for name, x in trl.inputs().items()}
        failed = {}
        for start in range(0, len(table), width):
            loss_type, *wanted = table[start : start + width]
            for name, number in zip(names, wanted, strict=True):
                cfg = dict(loss_type=loss_type, importance_sampling_level=level)
                cfg["epsilon_high"] = 5.0 if loss_type == "cispo" else 0.28
                cfg |= VARIANTS[name]
                objective = trl.objective(cfg)
                fixed = trl.batch_and_weights(cfg, inputs)
                scored = LossInputs(inputs["logp"], inputs["ent"], *fixed)
                loss, _ = objective(scored)
                gap = float(loss) * trl.scale(cfg) - float(number)
                if abs(gap) > 0.51e-8:
                    failed[loss_type, name] = gap
        assert not failed


def test_the_inputs_are_the_fixtures():
    for name, values in trl.load()["inputs"].items():
        np.testing.assert_array_equal(trl.inputs()[name], values)


def test_the_documents_program_prints_its_number(capsys):
    document = Path(__file__).resolve().parents[2] / "docs" / "trl.md"
    (block,) = re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)
    exec(compile(block, document.name, "exec"), {})
    assert capsys.readouterr().out == "0.014094\n"
