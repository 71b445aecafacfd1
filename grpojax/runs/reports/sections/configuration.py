"""The configuration of a run: a summary for the top, every setting for the end."""

import re
from collections.abc import Mapping, Sequence

from ..document import Block, Code, Heading, Inline, Strong, Verbatim
from ..read import Run
from .wording import setting_text


# A fact of the summary: text, the settings that may record its value, and text after
# it. The first settings are a recipe's, the others those of `grpojax.fit`.
_Fact = tuple[str, Sequence[str], str]

# Facts that belong together; without the first the others are left out.
_FACTS: tuple[tuple[_Fact, ...], ...] = (
    (
        ("model ", ("model.path", "model.name", "policy.name", "model", "policy"), ""),
        (" (", ("model.dtype",), ")"),
    ),
    (
        ("task ", ("data.task", "env.name", "task", "env"), ""),
        (" (", ("data.path",), ")"),
    ),
    (("algorithm ", ("algorithm.name", "algorithm"), ""),),
    (("reward weights ", ("reward.weights",), ""),),
    (("optimizer ", ("optimizer.name", "optimizer"), ""),),
    (
        ("learning rate ", ("optimizer.learning_rate", "learning_rate"), ""),
        (" (", ("optimizer.schedule",), ")"),
    ),
    (("", ("rollout.prompts", "prompts"), " prompts per step"),),
    (("", ("rollout.group", "group"), " completions per prompt"),),
    (("at most ", ("rollout.max_new_tokens",), " tokens per completion"),),
    (("temperature ", ("rollout.temperature", "rollout.sampler.temperature"), ""),),
)
_UNNAMED = ("weights", "learning_rate")  # Settings that are shown without a name.
_MAX_CHARACTERS = 80  # Of a value in the summary.


def summary(run: Run) -> list[Inline]:
    """What was trained, on which task and how, as far as it is recorded."""
    if not run.settings:
        return ["The configuration was not recorded."]
    parts: list[Inline] = []
    for facts in _FACTS:
        clause = _clause(run, facts)
        parts += [", ", *clause] if parts and clause else clause
    if not parts:
        parts = [Code("config.yaml"), " names no model, task or algorithm"]
    if isinstance(parts[0], str):
        parts[0] = parts[0].capitalize()
    parts.append(".")
    if is_negative_control(run):
        parts += [
            " ",
            Strong("A negative control: rewards are shuffled between completions."),
        ]
    return parts


def _clause(run: Run, facts: Sequence[_Fact]) -> list[Inline]:
    parts: list[Inline] = []
    for before, keys, after in facts:
        values = (_short_text(key, run.setting(key)) for key in keys)
        value = next((text for text in values if text is not None), None)
        if value is not None:
            parts += [part for part in (before, Code(value), after) if part]
        elif not parts:
            return []
    return parts


def _short_text(key: str, value: object) -> str | None:
    """A setting as text, or its name alone, if that is short enough for a sentence."""
    texts = [] if value is None else [setting_text(value)]
    if isinstance(value, Mapping):
        name = value.get("name")
        if isinstance(name, str):
            texts.append(name)
        elif key.split(".")[-1] not in _UNNAMED:
            return None
    return next((text for text in texts if len(text) <= _MAX_CHARACTERS), None)


def is_negative_control(run: Run) -> bool:
    """Whether completions were trained on the rewards of others.

    That is `reward.shuffle: true` of older recipes, or the reward shaping `shuffled`.
    """
    reward = {"": run.settings.get("reward"), **run.section("reward")}
    return reward.get("shuffle") is True or _names_part(reward, "shuffled")


def _names_part(value: object, part: str) -> bool:
    """Whether a part, with or without its module, is named anywhere in a value."""
    if isinstance(value, str):
        return re.split(r"[.:]", value)[-1] == part
    if isinstance(value, Mapping):
        return any(_names_part(inner, part) for inner in value.values())
    if isinstance(value, list):
        return any(_names_part(inner, part) for inner in value)
    return False


def seed(run: Run) -> list[Inline]:
    """The seed, in a sentence; nothing if it is not recorded."""
    return [] if run.seed is None else [" Seed ", Code(setting_text(run.seed)), "."]


def all_settings(run: Run) -> list[Block]:
    """Every setting, for the end of a report."""
    if not run.settings:
        return []
    lines = [f"{key}: {setting_text(value)}" for key, value in run.settings.items()]
    return [Heading(2, "Configuration"), Verbatim("\n".join(lines))]
