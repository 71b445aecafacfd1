"""Writes `trl-1.16.npz`: what TRL's own trainer computes on the cases of this folder.

    pip install trl==1.16.0 torch && python -m tests.update.make_trl

The method `GRPOTrainer._compute_loss` runs as it was released, on the CPU in float64;
the clipped shares among its metrics are float32 by its own code. What stands in for the
trainer has its fields; its model returns the given log-probabilities, with respect to
which the loss is differentiated. `settings` names the fields of `GRPOConfig`.
"""

import collections
import dataclasses
import importlib
import types
from pathlib import Path

import numpy as np

from .trl_cases import cases, EPSILON_LOW, inputs, MAX_COMPLETION_LENGTH, METRICS


VERSION = "1.16.0"
FIXTURE = Path(__file__).with_name("trl-1.16.npz")


class OneProcess:
    """What the trainer asks of `accelerate`, in one process."""

    num_processes = 1
    sync_gradients = True

    def gather(self, value):
        return value

    gather_for_metrics = gather

    def reduce(self, value, reduction):
        assert reduction == "sum"
        return value

    def pad_across_processes(self, value, dim, pad_index):
        del dim, pad_index
        return value


def importance(torch, cfg, given, mask):
    """The ratio of `_generate_and_score_completions`, of the modes that bound it."""
    gap = (given["old"] - given["samp"]) * mask
    level, outside = cfg["vllm_importance_sampling_mode"].split("_")
    cap = cfg["vllm_importance_sampling_cap"]
    ratio = torch.exp(gap.sum(-1, keepdim=True) if level == "sequence" else gap)
    if outside == "truncate":
        return torch.clamp(ratio, max=cap)
    return ratio.masked_fill(ratio > cap, 0.0)


def trainer_of(trl, cfg, log_prob, entropy):
    """An object with the methods of the trainer, and the fields that the loss reads."""
    kind = trl.GRPOTrainer
    made = kind.__new__(kind)
    defaults = {x.name: x.default for x in dataclasses.fields(trl.GRPOConfig)}
    args = types.SimpleNamespace(**defaults)
    args.delta = cfg.get("delta")
    args.use_bias_correction_kl = cfg.get("use_bias_correction_kl", False)
    args.steps_per_generation = cfg.get("SPG", 1)
    fields = dict(
        args=args,
        accelerator=OneProcess(),
        model=types.SimpleNamespace(training=True),
        aux_loss_enabled=False,
        beta=cfg.get("beta", 0.0),
        current_gradient_accumulation_steps=cfg.get("GA", 1),
        entropy_coef=cfg.get("entropy_coef", 0.0),
        epsilon_low=EPSILON_LOW,
        epsilon_high=cfg["epsilon_high"],
        importance_sampling_level=cfg["importance_sampling_level"],
        loss_type=cfg["loss_type"],
        max_completion_length=MAX_COMPLETION_LENGTH,
        off_policy_mask_threshold=cfg.get("off_policy_mask_threshold"),
        top_entropy_quantile=cfg.get("top_entropy_quantile", 1.0),
        use_adaptive_entropy=False,
        use_vllm="vllm_importance_sampling_mode" in cfg,
        vllm_importance_sampling_correction=True,
        _entropy_bonus_enabled="entropy_coef" in cfg,
        _metrics={"train": collections.defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *_, **__: (log_prob, entropy, None),
    )
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def measure(torch, trl, cfg):
    """Loss, gradient and metrics of one case."""
    given = {name: torch.tensor(x, dtype=torch.float64) for name, x in inputs().items()}
    log_prob = given["logp"].clone().requires_grad_()
    trainer = trainer_of(trl, cfg, log_prob, given["ent"])
    mask = given["cm"] * (given["tool"] if cfg.get("use_tool") else 1)
    ids = torch.zeros(given["cm"].shape, dtype=torch.long)
    batch = dict(
        prompt_ids=ids,
        prompt_mask=ids,
        completion_ids=ids,
        completion_mask=given["cm"],
        advantages=given["adv"],
        ref_per_token_logps=given["ref"],
        sampling_per_token_logps=given["samp"],
        num_items_in_batch=torch.tensor(cfg.get("num_items", float(mask.sum()))),
    )
    if not cfg.get("old_is_none"):
        batch["old_per_token_logps"] = given["old"]
    if cfg.get("use_tool"):
        batch["tool_mask"] = given["tool"]
    if trainer.use_vllm:
        batch["importance_sampling_ratio"] = importance(torch, cfg, given, mask)
    loss = trainer._compute_loss(trainer.model, batch)
    loss.backward()
    measured = trainer._metrics["train"]
    metrics = [measured[name][0] if name in measured else np.nan for name in METRICS]
    return loss.item(), log_prob.grad.numpy(), metrics


def main():
    torch, trl = map(importlib.import_module, ("torch", "trl"))
    if trl.__version__ != VERSION:
        raise SystemExit(f"The fixture is of trl {VERSION}: found {trl.__version__}.")
    torch.set_default_dtype(torch.float64)  # Of the constants in the loss.
    found = {name: measure(torch, trl, cfg) for name, cfg in cases().items()}
    losses, gradients, metrics = zip(*found.values(), strict=True)
    fields = [x.name for x in dataclasses.fields(trl.GRPOConfig)]
    base = {x.name for x in dataclasses.fields(trl.GRPOConfig.__mro__[2])}
    np.savez_compressed(
        FIXTURE,
        names=np.array(list(found)),
        loss=np.array(losses),
        gradient=np.array(gradients),
        metrics=np.array(metrics),
        settings=np.array([name for name in fields if name not in base]),
    )


if __name__ == "__main__":
    main()
