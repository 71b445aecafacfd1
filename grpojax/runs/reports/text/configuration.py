"""The configuration of a run in a few words."""

import re
from collections.abc import Iterator, Mapping, Sequence

from ..read.run import Run
from .markdown import code, Markdown
from .numbers import setting_text


# Facts of the summary, in order: words with a place for the value, and the settings
# that may record it; then the same for a detail of it. The first settings are a
# recipe's, the others those of `grpojax.fit`.
_FACTS = (
    (
        ("model {}", "model.path", "model.name", "policy.name", "model", "policy"),
        (" ({})", "model.dtype"),
    ),
    (
        ("task {}", "data.task", "env.name", "task", "env"),
        (" ({})", "data.path"),
    ),
    (("algorithm {}", "algorithm.name", "algorithm"),),
    (("teacher {}", "teacher.path"),),
    (("reward weights {}", "reward.weights"),),
    (("optimizer {}", "optimizer.name", "optimizer"),),
    (
        ("learning rate {}", "optimizer.learning_rate", "learning_rate"),
        (" ({})", "optimizer.schedule"),
    ),
    (("{} prompts per step", "rollout.prompts", "prompts"),),
    (("{} completions per prompt", "rollout.group", "group"),),
    (("at most {} tokens per completion", "rollout.max_new_tokens"),),
    (("temperature {}", "rollout.temperature", "rollout.sampler.temperature"),),
)
_SUPERVISED = (
    *_FACTS[:2],
    (("a supervised warm start of {} completions per step", "warmup.rows"),),
    *(x for x in _FACTS if x[0][1].startswith("optimizer.")),
)
"""The same of `run.stage: warmup`."""
_UNNAMED = ("weights", "learning_rate")  # Settings that are shown without a name.
_MAX_CHARACTERS = 80  # Of a value in the summary.


def summary(run: Run) -> Markdown:
    """What was trained, on which task and how, as far as it is recorded."""
    if not run.settings:
        return Markdown("The configuration was not recorded.")
    facts = _SUPERVISED if run.setting("run.stage") == "warmup" else _FACTS
    text = ", ".join(clause for clause in (_clause(run, x) for x in facts) if clause)
    if not text:
        text = f"{code('config.yaml')} names no model, task or algorithm"
    text = f"{text[0].upper()}{text[1:]}."
    if is_negative_control(run):
        text += " **A negative control: rewards are shuffled between completions.**"
    return Markdown(text)


def _clause(run: Run, facts: Sequence[Sequence[str]]) -> str:
    text = ""
    for words, *keys in facts:
        values = (_short_text(key, run.setting(key)) for key in keys)
        value = next((value for value in values if value is not None), None)
        if value is not None:
            text += words.format(code(value))
        elif not text:
            break  # A detail of nothing is left out.
    return text


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
    if reward.get("shuffle") is True:
        return True
    # A part is named with or without its module.
    return any(re.split(r"[.:]", text)[-1] == "shuffled" for text in _texts(reward))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)
