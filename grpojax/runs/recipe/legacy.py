"""Keys of older recipes, translated to those of today."""

from collections.abc import Mapping

from .kinds import Merge


_MOVED = {
    "guard": "health",
    "update.train_prompts": "rollout.train_prompts",
}
"""Old key, of a section or of a value -> new key."""

_WEIGHTS = ("reward.correct", "reward.format")
_SHAPINGS = {"keep": (), "zero": ("zero_truncated",), "drop": ("drop_truncated",)}
_TRUNCATED, _SHUFFLE = "reward.truncated", "reward.shuffle"

KEYS = (*_MOVED, *_WEIGHTS, _TRUNCATED, _SHUFFLE)
"""All keys that are only known here."""

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


def translate_key(name: str, value: object) -> tuple[str, object]:
    """The key and the value of today for a dotted key of any age."""
    if name in _WEIGHTS:
        return "reward.weights", Merge({name.rpartition(".")[2]: value})
    for old, new in _MOVED.items():
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :], value
    return name, value


def translate_shapings(settings: dict[str, object]) -> None:
    """Replaces `reward.truncated` and `reward.shuffle` by `reward.shapings`.

    **Raises:** `ValueError` for values that they never had.
    """
    truncated = settings.pop(_TRUNCATED, None)
    shuffle = settings.pop(_SHUFFLE, None)
    if truncated is None and shuffle is None:
        return
    if truncated not in (None, *_SHAPINGS):
        raise ValueError(
            f"`{_TRUNCATED}` must be one of {', '.join(_SHAPINGS)}. Received "
            f"{truncated!r}: or name `reward.shapings`."
        )
    if shuffle not in (None, True, False):
        raise ValueError(
            f"`{_SHUFFLE}` must be true or false. Received {shuffle!r}: or name "
            "`reward.shapings`."
        )
    shapings = list(_SHAPINGS[str(truncated or "keep")]) + ["shuffled"] * bool(shuffle)
    named = settings.get("reward.shapings")
    settings["reward.shapings"] = shapings + (named if isinstance(named, list) else [])


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
