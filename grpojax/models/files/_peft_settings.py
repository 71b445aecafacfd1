"""The settings in PEFT's adapter_config.json."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn, TypeVar


_Number = TypeVar("_Number", int, float)

CONFIG = "adapter_config.json"
MERGE = (
    "Merge the adapter into its model with PEFT (`merge_and_unload`), and load the "
    "result with `models.load`."
)
"""What to do with an adapter that is not implemented."""

# Keys of an adapter's origin, and of PEFT's own training.
_IGNORED = {
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}
_READ = {
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    # Which layers are adapted follows from the tensors.
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
}
# For all other keys, the values that change nothing.
_ONLY = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian")}
_OFF = (None, False, {}, [])


class Settings(NamedTuple):
    """What adapter_config.json says of ranks, scales and layers."""

    r: int
    lora_alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    use_rslora: bool
    partial: bool  # Whether it may leave out layers.

    def rank(self, tensor: str) -> int:
        """The rank of the adapter to which a tensor belongs."""
        return _matching(self.rank_pattern, tensor, self.r)

    def alpha(self, tensor: str) -> float:
        """Its alpha; a rank-stabilized one divides alpha by the root of the rank."""
        alpha = float(_matching(self.alpha_pattern, tensor, self.lora_alpha))
        return alpha * math.sqrt(self.rank(tensor)) if self.use_rslora else alpha


def _matching(
    patterns: Mapping[str, _Number], tensor: str, default: _Number
) -> _Number:
    """The value of the first pattern that a module's name ends with, as PEFT has it."""
    module = tensor.removeprefix("base_model.model.").rpartition(".lora_")[0]
    found = (x for key, x in patterns.items() if re.match(rf"(.*\.)?({key})$", module))
    return next(found, default)


def read_settings(values: Mapping[str, Any]) -> Settings:
    """The settings; refuses every other one that changes the arithmetic."""
    if values.get("peft_type") != "LORA":
        _refuse("peft_type", values.get("peft_type"), "LORA")
    for key, value in values.items():
        allowed = _ONLY.get(key, _OFF)
        if key not in _IGNORED | _READ and value not in allowed:
            _refuse(key, value, allowed[0])
    patterns = {x: values.get(f"{x}_pattern") or {} for x in ("rank", "alpha")}
    for rank in (values.get("r"), *patterns["rank"].values()):
        if type(rank) is not int or rank < 1:
            _refuse("r", rank, "a positive integer")
    for alpha in (values.get("lora_alpha"), *patterns["alpha"].values()):
        if not isinstance(alpha, int | float) or alpha <= 0:
            _refuse("lora_alpha", alpha, "a positive number")
    targets = values.get("target_modules")
    named = targets if isinstance(targets, list) else []
    some = ("layers_to_transform", "layers_pattern", "exclude_modules")
    return Settings(
        values["r"],
        values["lora_alpha"],
        patterns["rank"],
        patterns["alpha"],
        bool(values.get("use_rslora")),
        partial=any(values.get(key) for key in some)
        or values.get("layers_to_transform") == 0
        or (isinstance(targets, str) and targets != "all-linear")
        or any("." in name for name in named),
    )


def _refuse(key: str, value: object, implemented: object) -> NoReturn:
    raise ValueError(
        f"`{key}` = {value!r} in {CONFIG} is not implemented; only {implemented!r} "
        f"is. {MERGE}"
    )
