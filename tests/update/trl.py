"""TRL 1.16's configurations as objectives of this library: one table.

`objective(cfg)` maps each field of a configuration to parts, and `batch_and_weights`
the reference's inputs; `docs/trl.md` explains them in words.
"""

import functools

import numpy as np

from grpojax import update

from .make_trl import FIXTURE
from .trl_cases import (
    cases,
    EPSILON_LOW,
    inputs as inputs,
    MAX_COMPLETION_LENGTH,
    METRICS,
)


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


@functools.cache
def load() -> dict[str, dict]:
    """What TRL computes, by case: `cfg`, `loss`, `gradient` and `metrics`."""
    with np.load(FIXTURE) as stored:
        arrays = {name: stored[name] for name in stored.files}
    found = {}
    for i, (name, cfg) in enumerate(cases().items()):
        assert arrays["names"][i] == name
        metrics = dict(zip(METRICS, arrays["metrics"][i].tolist(), strict=True))
        found[name] = dict(
            cfg=cfg,
            loss=float(arrays["loss"][i]),
            gradient=arrays["gradient"][i],
            metrics={x: y for x, y in metrics.items() if not np.isnan(y)},
        )
    assert len(found) == len(arrays["names"])
    return found


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
    batch = update.Batch(
        advantage=inputs["adv"][:, None],
        mask=mask.astype(bool),
        old=None if cfg.get("old_is_none") else inputs["old"],
        behavior=inputs["samp"],
        reference=inputs["ref"],
        entropy=inputs["ent"],
    )
    return batch, objective(cfg).loss_weights(batch)
