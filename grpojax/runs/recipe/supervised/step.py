"""The step of a warm start."""

import optax

from ...._train import SupervisedStep
from ....text import AbstractTokenizer
from ....update import UpdateConfig
from ..schema import Recipe
from ..tasks import Environments, is_chat
from .completions import demonstrations


def build_supervised(
    recipe: Recipe,
    environments: Environments,
    tokenizer: AbstractTokenizer,
    optimizer: optax.GradientTransformation,
) -> tuple[SupervisedStep, str]:
    """The step of `run.stage: warmup`, and a line about it.

    **Arguments:**

    - `recipe`: its sections `warmup`, `data` and `update`.
    - `environments`: have the prompts, and the rows that completions are columns of.
    - `tokenizer`: the policy's.
    - `optimizer`: of the recipe.

    **Raises:** `ValueError` for rows without a completion, or one that is too long.
    """
    settings, env = recipe.warmup, environments.train
    chat = is_chat(recipe.data, env)
    given, skipped = demonstrations(settings, env, tokenizer, chat=chat)
    step = SupervisedStep(
        given,
        optimizer,
        settings.rows,
        UpdateConfig(**vars(recipe.update)),
        vocab_size=env.vocab_size,
    )
    rate = recipe.optimizer.learning_rate
    rate = f"{rate:g}" if isinstance(rate, float) else str(rate)
    left_out = f", {skipped:,} of them too long and left out" if skipped else ""
    line = (
        f"step   supervised, {settings.rows} of {given.size:,} completions"
        f"{left_out}, of at most {given.tokens.shape[1]} tokens, learning rate {rate}"
    )
    return step, line
