"""Which metrics belong in one panel, and what it says about them."""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Plan:
    """What belongs in a panel: patterns of metrics' names, with a label each.

    In a pattern `*` stands for one name, which is then the label where that is empty.
    `band` names the metrics below and above the first one.
    """

    section: str
    name: str
    title: str
    unit: str
    metrics: Mapping[str, str]
    band: tuple[str, str] | None = None
    note: str = ""
    expected: bool = True


_GAP = "sampling/sampling_logp_difference"
_WEIGHT = "sampling/importance_sampling_ratio"

PLANS = (
    Plan("Result", "reward", "Reward", "", {"reward": "mean total"}),
    Plan("Result", "components", "Reward components", "", {"rewards/*/mean": ""}),
    Plan(
        "Reward",
        "spread",
        "Spread of rewards",
        "",
        {"reward_std": "total, in a group", "rewards/*/std": ""},
    ),
    Plan(
        "Reward",
        "flat-groups",
        "Groups that teach nothing",
        "share",
        {"frac_reward_zero_std": "all paid the same"},
    ),
    Plan(
        "Reward",
        "errors",
        "Rewards that failed",
        "rows",
        {"rewards/*/errors": ""},
        expected=False,
    ),
    Plan(
        "Completions",
        "length",
        "Length",
        "tokens",
        {"completions/mean_length": "mean of all"},
        ("completions/min_length", "completions/max_length"),
        "The band reaches from the shortest to the longest.",
    ),
    Plan(
        "Completions",
        "length-by-kind",
        "Length by kind",
        "tokens",
        {
            "completions/mean_correct_length": "correct",
            "completions/mean_wrong_length": "wrong",
            "completions/mean_terminated_length": "terminated",
        },
        note="0 where a step has none of a kind.",
    ),
    Plan(
        "Completions",
        "clipped",
        "Completions cut short",
        "share",
        {"completions/clipped_ratio": "cut short"},
    ),
    Plan("Update", "entropy", "Entropy", "nats", {"entropy": "mean over tokens"}),
    Plan("Update", "kl", "KL to the reference", "nats", {"kl": "mean over tokens"}),
    Plan(
        "Update",
        "clip",
        "Clip fractions",
        "share",
        {
            "clip_ratio/low_mean": "below the region",
            "clip_ratio/high_mean": "above it",
            "clip_ratio/region_mean": "either",
        },
    ),
    Plan(
        "Update",
        "clip-rows",
        "Clip fractions of single rows",
        "share",
        {
            "clip_ratio/low_min": "below, smallest row",
            "clip_ratio/high_max": "above, largest row",
        },
    ),
    Plan(
        "Update",
        "ratio",
        "Ratio π / π_old",
        "",
        {"ratio/mean": "mean over tokens"},
        ("ratio/min", "ratio/max"),
        "The band reaches from the smallest to the largest.",
    ),
    Plan(
        "Update",
        "gap",
        "Log-prob gap to the sampler",
        "nats",
        {f"{_GAP}/mean": "mean over tokens", f"{_GAP}/max": "largest"},
    ),
    Plan(
        "Update",
        "importance",
        "Importance weights",
        "",
        {f"{_WEIGHT}/mean": "mean over tokens"},
        (f"{_WEIGHT}/min", f"{_WEIGHT}/max"),
        "The band reaches from the smallest to the largest.",
        expected=False,
    ),
    Plan("Update", "loss", "Loss", "", {"loss": "loss"}),
    Plan("Update", "gradient", "Gradient norm", "", {"grad_norm": "before clipping"}),
    Plan(
        "Update",
        "learning-rate",
        "Learning rate",
        "",
        {"learning_rate": "last update"},
        expected=False,
    ),
    Plan(
        "Update",
        "skipped",
        "Skipped updates",
        "updates",
        {"skipped_updates": "gradient not finite"},
    ),
    Plan(
        "Speed",
        "throughput",
        "Tokens per second",
        "tokens/s",
        {"tokens_per_second": "sampled", "*_tokens_per_second": ""},
    ),
    Plan("Speed", "time", "Time of a step and its phases", "s", {"*_time": ""}),
    Plan("Speed", "tokens", "Sampled tokens", "tokens", {"num_tokens": "in a step"}),
)

# In metrics.jsonl, and in no panel: the ends of the lengths of each kind.
UNDRAWN = ("step", "time", "completions/min_*_length", "completions/max_*_length")


def chosen(plan: Plan, names: Sequence[str]) -> dict[str, str]:
    """The metrics of a plan that are there, each with its label."""
    found: dict[str, str] = {}
    for pattern, label in plan.metrics.items():
        head, star, tail = pattern.partition("*")
        for name in fnmatch.filter(names, pattern):
            inner = name[len(head) : len(name) - len(tail)] if star else name
            found.setdefault(name, label or inner)
    return found
