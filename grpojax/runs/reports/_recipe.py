"""What a run was: a sentence for the top, every key for the end."""

from ._document import Block, Code, Heading, Inline, Strong, Verbatim
from ._read import Run, written


# What was trained on what: words, the key that they are about, and words after it.
_FACTS = (
    ("Model ", "model.path", ""),
    (" (", "model.dtype", ")"),
    (", trained on ", "data.task", ""),
    (", ", "data.path", ""),
    (", by ", "algorithm.name", ""),
    (". A step is ", "rollout.prompts", " prompts"),
    (" x ", "rollout.group", " samples"),
    (" of at most ", "rollout.max_new_tokens", " tokens"),
    (", at temperature ", "rollout.temperature", ""),
    (", learning rate ", "optimizer.learning_rate", ""),
)

_SHUFFLED = "reward.shuffle"


def subject(run: Run) -> list[Inline]:
    """What was trained on what, in a sentence or two."""
    if not run.recipe:
        return ["What was trained on what is not known: there is no recipe."]
    line: list[Inline] = []
    for before, key, after in _FACTS:
        if run.recipe.get(key) is not None:
            line += [before, Code(written(run.recipe[key])), after]
    line.append(".")
    if run.recipe.get(_SHUFFLED):
        line += [
            " ",
            Strong("A negative control: rewards went to the wrong completions."),
        ]
    return line


def seed(run: Run) -> list[Inline]:
    """The seed, in a sentence."""
    return [] if run.seed is None else [" Seed ", Code(written(run.seed)), "."]


def recipe(run: Run) -> list[Block]:
    """The whole recipe, for the end of a report."""
    if not run.recipe:
        return []
    text = "\n".join(f"{key}: {written(value)}" for key, value in run.recipe.items())
    return [Heading(2, "The whole recipe"), Verbatim(text)]
