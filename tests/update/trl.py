"""How TRL 1.16 says things, and how they are said here: one table.

`objective(cfg)` maps each field of the reference file's `cfg` to parts, `frozen(...)`
its inputs; `docs/trl.md` explains them in words.
"""

import json
from pathlib import Path

import jax.numpy as jnp
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
SURROGATES = {
    "cispo": lambda cfg: update.Cispo(cap=cfg["epsilon_high"]),
    "sapo": lambda cfg: update.Sapo(),
    "vespo": lambda cfg: update.Vespo(),
}


def load():
    if not FIXTURE.exists():
        pytest.skip("needs the reference numbers of TRL 1.16 beside the checkout")
    return json.loads(FIXTURE.read_text())


def objective(cfg: dict) -> update.Objective:
    loss_type = cfg["loss_type"]
    clip = lambda cfg: update.Clip(
        EPSILON_LOW, cfg["epsilon_high"], delta=cfg.get("delta")
    )
    ratio = RATIOS[cfg["importance_sampling_level"]]
    penalties = ()
    if "beta" in cfg:
        weighed = ratio if cfg.get("use_bias_correction_kl") else None
        penalties = (update.KL(cfg["beta"], ratio=weighed),)
    weight = WEIGHTS[loss_type]
    if "num_items" in cfg and weight is update.token_mean and loss_type != "bnpo":
        weight = update.Total(cfg["num_items"] / cfg["SPG"])
    share, threshold = (
        cfg.get(name) for name in ("top_entropy_quantile", "off_policy_mask_threshold")
    )
    return update.Objective(
        ratio=ratio,
        surrogate=SURROGATES.get(loss_type, clip)(cfg),
        weight=weight,
        penalties=penalties,
        entropy_filter=None if share is None else update.TopEntropy(share),
        off_policy_filter=None
        if threshold is None
        else update.OffPolicySequenceMask(threshold),
    )


def scale(cfg: dict) -> float:
    """TRL divides every microbatch by their number; here the weight does, once.

    For the types of `Total` the two cancel: num_items · GA / SPG, over GA.
    """
    return 1 / cfg.get("GA", 1)


def frozen(cfg: dict, inputs: dict) -> update.Frozen:
    mask = inputs["cm"] * (inputs["tool"] if cfg.get("use_tool") else 1)
    ratio = cfg.get("is_ratio")
    return update.Frozen(
        advantage=inputs["adv"][:, None],
        mask=mask.astype(bool),
        old=None if cfg.get("old_is_none") else inputs["old"],
        behavior=inputs["samp"],
        reference=inputs["ref"],
        entropy=inputs["ent"],
        importance=None
        if ratio is None
        else jnp.asarray(ratio, inputs["logp"].dtype),
    )
