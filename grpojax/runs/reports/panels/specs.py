"""Which metrics share a panel, and the panel's title, unit and notes."""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class PanelSpec:
    """The metrics of one panel.

    **Fields:**

    - `section`, `name`, `title`, `unit`: of the panel; see `Panel`.
    - `metrics`: patterns of metric names, with the label of each. `*` matches any part
        of a name, and is the label if that is empty.
    - `band`: the metrics below and above the first one.
    - `note`: a sentence below the panel.
    - `expected`: whether a report names the panel if its metrics were not recorded.
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

PANEL_SPECS = (
    PanelSpec("Result", "reward", "Reward", "", {"reward": "mean total"}),
    PanelSpec("Result", "components", "Reward components", "", {"rewards/*/mean": ""}),
    PanelSpec(
        "Reward",
        "spread",
        "Standard deviation of rewards",
        "",
        {"reward_std": "total, within groups", "rewards/*/std": ""},
    ),
    PanelSpec(
        "Reward",
        "flat-groups",
        "Groups with zero reward variance",
        "share",
        {"frac_reward_zero_std": "all rewards equal"},
    ),
    PanelSpec(
        "Reward",
        "errors",
        "Reward errors",
        "completions",
        {"rewards/*/errors": ""},
        expected=False,
    ),
    PanelSpec(
        "Completions",
        "length",
        "Length",
        "tokens",
        {"completions/mean_length": "mean"},
        ("completions/min_length", "completions/max_length"),
        "The band spans the shortest to the longest.",
    ),
    PanelSpec(
        "Completions",
        "length-by-kind",
        "Length by kind",
        "tokens",
        {
            "completions/mean_correct_length": "correct",
            "completions/mean_wrong_length": "wrong",
            "completions/mean_terminated_length": "terminated",
        },
        note="0 in steps without any of a kind.",
    ),
    PanelSpec(
        "Completions",
        "clipped",
        "Truncated completions",
        "share",
        {"completions/clipped_ratio": "truncated"},
    ),
    PanelSpec("Update", "entropy", "Entropy", "nats", {"entropy": "mean over tokens"}),
    PanelSpec(
        "Update", "kl", "KL to the reference", "nats", {"kl": "mean over tokens"}
    ),
    PanelSpec(
        "Update",
        "clip",
        "Clip fractions",
        "share",
        {
            "clip_ratio/low_mean": "below the trust region",
            "clip_ratio/high_mean": "above",
            "clip_ratio/region_mean": "either",
        },
    ),
    PanelSpec(
        "Update",
        "clip-rows",
        "Clip fractions of single completions",
        "share",
        {
            "clip_ratio/low_min": "below, smallest",
            "clip_ratio/high_max": "above, largest",
        },
    ),
    PanelSpec(
        "Update",
        "ratio",
        "Ratio π / π_old",
        "",
        {"ratio/mean": "mean over tokens"},
        ("ratio/min", "ratio/max"),
        "The band spans the smallest to the largest.",
    ),
    PanelSpec(
        "Update",
        "gap",
        "Log-prob gap to the sampler",
        "nats",
        {f"{_GAP}/mean": "mean over tokens", f"{_GAP}/max": "largest"},
    ),
    PanelSpec(
        "Update",
        "importance",
        "Importance weights",
        "",
        {f"{_WEIGHT}/mean": "mean over tokens"},
        (f"{_WEIGHT}/min", f"{_WEIGHT}/max"),
        "The band spans the smallest to the largest.",
        expected=False,
    ),
    PanelSpec("Update", "loss", "Loss", "", {"loss": "loss"}),
    PanelSpec(
        "Update", "gradient", "Gradient norm", "", {"grad_norm": "before clipping"}
    ),
    PanelSpec(
        "Update",
        "learning-rate",
        "Learning rate",
        "",
        {"learning_rate": "last update"},
        expected=False,
    ),
    PanelSpec(
        "Update",
        "skipped",
        "Skipped updates",
        "updates",
        {"skipped_updates": "gradient not finite"},
    ),
    PanelSpec(
        "Speed",
        "throughput",
        "Tokens per second",
        "tokens/s",
        {"tokens_per_second": "sampled", "*_tokens_per_second": ""},
    ),
    PanelSpec("Speed", "time", "Time per step and phase", "s", {"*_time": ""}),
    PanelSpec(
        "Speed", "tokens", "Sampled tokens", "tokens", {"num_tokens": "per step"}
    ),
)

# Recorded and not plotted: the extremes of the lengths of each kind.
NOT_PLOTTED = ("step", "time", "completions/min_*_length", "completions/max_*_length")


def match_metrics(spec: PanelSpec, names: Sequence[str]) -> dict[str, str]:
    """The recorded metrics of a panel, each with its label."""
    labels: dict[str, str] = {}
    for pattern, label in spec.metrics.items():
        head, star, tail = pattern.partition("*")
        for name in fnmatch.filter(names, pattern):
            inner = name[len(head) : len(name) - len(tail)] if star else name
            labels.setdefault(name, label or inner)
    return labels
