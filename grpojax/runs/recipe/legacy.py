"""Keys of older recipes, translated to those of today."""

from collections.abc import Iterable, Mapping
from typing import Literal

from .values.kinds import Merge


_MOVED = {
    "guard": "health",
    "update.train_prompts": "rollout.train_prompts",
}
"""Old key, of a section or of a value -> new key."""

_WEIGHTS = ("reward.correct", "reward.format")
_TRUNCATED, _SHUFFLE = "reward.truncated", "reward.shuffle"
_SHAPINGS = {"keep": (), "zero": ("zero_truncated",), "drop": ("drop_truncated",)}

SHAPINGS = "reward.shapings"
"""The key of today for `reward.truncated` and `reward.shuffle`."""

KINDS: dict[str, object] = {
    _TRUNCATED: Literal["keep", "zero", "drop"],
    _SHUFFLE: bool,
}
"""Old keys that are translated last, with the kinds of their values."""

# Keys of the section `data` that all tasks once had, with their defaults: older recipes
# have them for tasks that ignore them.
_DATA = {
    "path": "word-problems",
    "eval_path": None,
    "train_rows": None,
    "bad_rows": "raise",
    "long_prompts": "raise",
    "max_prompt_length": None,
    "chat": False,
    "system_prompt": None,
    "shots": 0,
    "answer_format": "####",
    "stop": None,
}


def translate_file(values: Mapping) -> Mapping:
    """Recipe values, with the old default `update.recompute: false` replaced by null.

    It was the default where no objective needed old log-probs to be recomputed.
    """
    reward, update = values.get("reward"), values.get("update")
    old = isinstance(reward, Mapping) and "correct" in reward
    if old and isinstance(update, Mapping) and update.get("recompute") is False:
        return {**values, "update": {**update, "recompute": None}}
    return values


def translate_key(name: str, value: object) -> tuple[str, object]:
    """The current key and value for a dotted key of any recipe version."""
    if name in _WEIGHTS:
        return "reward.weights", Merge({name.rpartition(".")[2]: value})
    for old, new in _MOVED.items():
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :], value
    return name, value


def forget_replaced(settings: dict[str, object], names: Iterable[str]) -> None:
    """Drops the old keys whose meaning a later source replaces.

    **Arguments:**

    - `settings`: of the sources before, by key.
    - `names`: keys of the later source.
    """
    if SHAPINGS in names:
        for key in KINDS:
            settings.pop(key, None)


def translate_shapings(settings: dict[str, object], shapings: object) -> None:
    """Replaces `reward.truncated` and `reward.shuffle` by `reward.shapings`.

    **Arguments:**

    - `settings`: by key; changed.
    - `shapings`: those that the old keys change.
    """
    truncated = settings.pop(_TRUNCATED, None)
    shuffle = settings.pop(_SHUFFLE, None)
    kept = list(shapings) if isinstance(shapings, Iterable) else []
    if isinstance(truncated, str):
        known = [name for names in _SHAPINGS.values() for name in names]
        kept = [*_SHAPINGS[truncated], *(x for x in kept if x not in known)]
    if shuffle is not None:
        kept = [x for x in kept if x != "shuffled"] + ["shuffled"] * bool(shuffle)
    if truncated is not None or shuffle is not None:
        settings[SHAPINGS] = tuple(kept)


def without_defaults(task: str, options: Mapping[str, object]) -> dict[str, object]:
    """Options of a task in `envs` without those that older recipes had for all tasks.

    **Arguments:**

    - `task`: its name; the keys were those of `gsm8k`.
    - `options`: keys and values of the section `data`.
    """
    if task == "gsm8k":
        return dict(options)
    return {
        key: value
        for key, value in options.items()
        if key not in _DATA or _DATA[key] != value
    }
