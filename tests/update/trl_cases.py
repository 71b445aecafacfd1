"""The inputs and configurations on which the losses are compared with TRL's."""

import itertools

import numpy as np


EPSILON_LOW = 0.2
MAX_COMPLETION_LENGTH = 8
LOSS_TYPES = "grpo bnpo dr_grpo dapo luspo cispo sapo vespo".split()
LEVELS = "token", "sequence"
_CAP = {"vllm_importance_sampling_cap": 3.0}
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
    "is_tok": dict(vllm_importance_sampling_mode="token_truncate", **_CAP),
    "is_seq": dict(vllm_importance_sampling_mode="sequence_truncate", **_CAP),
    "is_tok_mask": dict(
        vllm_importance_sampling_mode="token_mask", vllm_importance_sampling_cap=1.2
    ),
    "is_seq_mask": dict(
        vllm_importance_sampling_mode="sequence_mask", vllm_importance_sampling_cap=1.2
    ),
    "ga": dict(GA=2, SPG=4, num_items=40),
}
METRICS = "entropy", "kl", "clip_ratio/low_mean", "clip_ratio/high_mean"
METRICS += "clip_ratio/low_min", "clip_ratio/high_max", "cispo_clip_ratio"


def cases() -> dict[str, dict]:
    """Every loss type, at both levels, in every variant, by name."""
    found = {}
    for loss_type, level, name in itertools.product(LOSS_TYPES, LEVELS, VARIANTS):
        cfg = dict(loss_type=loss_type, importance_sampling_level=level)
        cfg["epsilon_high"] = 5.0 if loss_type == "cispo" else 0.28
        found[f"{loss_type}/{level}/{name}"] = cfg | VARIANTS[name]
    return found


def inputs() -> dict[str, np.ndarray]:
    """Six rows of five tokens, float64; the fifth row is empty."""
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
