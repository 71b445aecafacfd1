"""TRL 1.16's configurations as objectives of this library: one table.

`objective(cfg)` maps each field of a configuration to parts, and `batch_and_weights`
the reference's inputs; `docs/trl.md` explains them in words.
"""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from grpojax import update


FIXTURE = Path(__file__).resolve().parents[3] / "shared/golden/trl-1.16.json"

EPSILON_LOW = 0.2
MAX_COMPLETION_LENGTH = 8

WEIGHTS = {
    "grpo": update.sequence_mean,
    "sapo": update.sequence_mean,
    "bnpo": update.token_mean,
    "dapo": update.token_mean,
    "cispo": update.token_mean,
    "vespo": update.token_mean,
    "dr_grpo": update.Constant(MAX_COMPLETION_LENGTH),
    "luspo": update.sequence_sum,
}
RATIOS = {"token": update.token_ratio, "sequence": update.sequence_ratio}


def load():
    if not FIXTURE.exists():
        pytest.skip("needs the reference numbers of TRL 1.16 beside the checkout")
    return json.loads(FIXTURE.read_text())


def inputs() -> dict[str, np.ndarray]:
    """The reference's inputs, drawn as it drew them."""
    rng, shape = np.random.default_rng(0), (6, 5)
    logp = -rng.gamma(1.5, 1.0, shape)
    old = logp + rng.normal(0, 0.35, shape)
    ref = logp + rng.normal(0, 0.4, shape)
    samp = old + rng.normal(0, 0.1, shape)
    ent = rng.gamma(2, 0.6, shape)
    cm = np.arange(5) < np.array([5, 3, 1, 4, 0, 5])[:, None]
    tool = np.ones(shape)
    tool[0, 1:3] = 0
    adv = np.array([1.3, -0.7, 0.2, -1.1, 0.5, 0.0])
    named = dict(logp=logp, old=old, ref=ref, samp=samp, ent=ent, adv=adv)
    return {**named, "cm": cm.astype(float), "tool": tool}


def _surrogate(cfg: dict) -> update.AbstractSurrogate:
    match cfg["loss_type"]:
        case "cispo":
            return update.Cispo(cap=cfg["epsilon_high"])
        case "sapo":
            return update.Sapo()
        case "vespo":
            return update.Vespo()
    return update.Clip(EPSILON_LOW, cfg["epsilon_high"], delta=cfg.get("delta"))


def objective(cfg: dict) -> update.Objective:
    loss_type = cfg["loss_type"]
    ratio = RATIOS[cfg["importance_sampling_level"]]
    penalties = ()
    if "beta" in cfg:
        weighed = ratio if cfg.get("use_bias_correction_kl") else None
        penalties = (update.KL(cfg["beta"], ratio=weighed),)
    weight = WEIGHTS[loss_type]
    if "num_items" in cfg and loss_type in ("dapo", "cispo", "vespo"):
        weight = update.Total(cfg["num_items"] / cfg["SPG"])
    share, threshold, mode, bonus = (
        cfg.get(name)
        for name in (
            "top_entropy_quantile",
            "off_policy_mask_threshold",
            "vllm_importance_sampling_mode",
            "entropy_coef",
        )
    )
    importance = None
    if mode is not None:
        level, outside = mode.split("_")
        cap = cfg["vllm_importance_sampling_cap"]
        importance = update.Importance(cap, level=level, outside=outside)
    return update.Objective(
        ratio=ratio,
        surrogate=_surrogate(cfg),
        weight=weight,
        penalties=penalties,
        importance=importance,
        entropy_filter=None if share is None else update.TopEntropy(share),
        off_policy_filter=None
        if threshold is None
        else update.OffPolicySequenceMask(threshold),
        entropy_bonus=bonus,
    )


def scale(cfg: dict) -> float:
    """TRL divides every microbatch by their number; here the weight does, once.

    For the types of `Total` the two cancel: num_items · GA / SPG, over GA.
    """
    return 1 / cfg.get("GA", 1)


def batch_and_weights(
    cfg: dict, inputs: dict
) -> tuple[update.Batch, update.LossWeights]:
    mask = inputs["cm"] * (inputs["tool"] if cfg.get("use_tool") else 1)
    ratio = cfg.get("is_ratio")
    batch = update.Batch(
        advantage=inputs["adv"][:, None],
        mask=mask.astype(bool),
        old=None if cfg.get("old_is_none") else inputs["old"],
        behavior=inputs["samp"],
        reference=inputs["ref"],
        entropy=inputs["ent"],
    )
    weights = objective(cfg).loss_weights(batch)
    if ratio is not None:
        ratio = jnp.asarray(ratio, inputs["logp"].dtype)
        weights = dataclasses.replace(weights, importance=ratio)
    return batch, weights
