"""Generation from a recipe: `grpojax generate`, and the same as a function."""

import logging
from collections.abc import Callable, Sequence

import numpy as np
from rich.console import Console
from rich.text import Text

from ...text import AbstractTokenizer
from ..distributed import mesh as meshes
from ..evaluation import generate as generation
from ..evaluation.printing import echo
from ..io.terminal import printable
from ..recipe import build
from ..recipe.parts.evaluation import generation_sampler
from ..recipe.parts.reward import build_reward
from ..recipe.schema import Recipe
from ..recipe.tasks import answered, build_environments, find_task, with_tools


logger = logging.getLogger(__name__)

Records = list[dict[str, object]]
"""A record for each problem; see `evaluation.generate.generate`."""


def generate(
    recipe: Recipe,
    prompts: Sequence[str] = (),
    *,
    problems: int = 4,
    samples: int = 1,
) -> Records:
    """Completions of a recipe's model, with their rewards.

    **Arguments:**

    - `recipe`: the model, the template of prompts (`data.chat`, `data.system_prompt`),
        `data.stop`, the horizon, the sampler and the reward.
    - `prompts`: texts to complete in place of the held-out problems.
    - `problems`: how many of those, if there are as many.
    - `samples`: completions of each.

    **Returns:** a record for each problem; see `evaluation.generate.generate`.

    **Raises:** `ValueError` or `OSError` for parts that are missing or do not fit.
    """
    return prepare(recipe, prompts, problems=problems, samples=samples)()


def prepare(
    recipe: Recipe, prompts: Sequence[str], *, problems: int, samples: int
) -> Callable[[], Records]:
    """A function that generates, with all loaded that it needs; see `generate`."""
    for name, size in (("problems", problems), ("samples", samples)):
        if size < 1:
            raise ValueError(
                f"generate: {name} must be a positive integer. Received {size}."
            )
    find_task(recipe.data.task)
    mesh = meshes.build_mesh(**vars(recipe.mesh))
    policy, tokenizer = build.load_model(recipe, mesh)
    tokenizer = with_tools(recipe, tokenizer)
    step = build.step_of(recipe.model.path)
    reward = None
    if prompts:
        tokens = [_tokens(recipe, tokenizer, prompt) for prompt in prompts]
        stop = recipe.data.option("stop")
        env = generation.Prompts(
            tokens,
            tokenizer,
            max_completion_length=recipe.rollout.max_new_tokens,
            ends=() if stop is None else [stop],
        )
        if recipe.environment.tools:
            env = answered(recipe, env, tokenizer)
        env, count = meshes.place(env, mesh), len(prompts)
    else:
        made = build_environments(recipe, tokenizer, mesh)
        env = made.train if made.held_out is None else made.held_out
        reward = build_reward(recipe, env, tokenizer, lambda: policy)
        count = min(problems, env.size)
    for remark in build.remarks_of(recipe, policy, tokenizer, env):
        logger.warning(remark)

    def run() -> Records:
        with meshes.use(mesh):
            return generation.generate(
                policy,
                env,
                tokenizer,
                problems=count,
                samples=samples,
                sampler=generation_sampler(recipe),
                reward=reward,
                key=build.build_keys(recipe).evaluate,
                step=step,
            )

    return run


def _tokens(recipe: Recipe, tokenizer: AbstractTokenizer, prompt: str) -> list[int]:
    if not recipe.data.option("chat"):
        return tokenizer.encode_prompt(prompt)
    system = recipe.data.option("system_prompt")
    messages = [] if system is None else [{"role": "system", "content": system}]
    return tokenizer.chat([*messages, {"role": "user", "content": prompt}])


def color_of(probability: float) -> str:
    """A color from red, for 0, over yellow to green, for 1."""
    red, green = min(2 - 2 * probability, 1), min(2 * probability, 1)
    return f"rgb({round(215 * red)},{round(175 * green)},0)"


def print_records(records: Sequence[dict], console: Console) -> None:
    """Prints completions, each token in the color of its probability."""
    legend = Text("probability of a token when it was drawn: ")
    for probability in (0.0, 0.25, 0.5, 0.75, 1.0):
        legend.append(f"{probability:g} ", color_of(probability))
    console.print(legend)
    for record in records:
        echo(console, f"\n{record['prompt'].strip()}", style="dim")
        for sample in record["samples"]:
            line = Text("> ")
            tokens = zip(
                sample["pieces"], sample["log_prob"], sample["sampled"], strict=True
            )
            for piece, log_prob, sampled in tokens:
                line.append(
                    printable(piece), color_of(np.exp(log_prob)) if sampled else "dim"
                )
            console.print(line, soft_wrap=True)
            echo(console, f"  {summarize(sample)}")


def summarize(sample: dict) -> str:
    """A completion's rewards, length and end, in a line."""
    rewards = [f"{name} {value:g}" for name, value in sample["rewards"].items()]
    total = [f"reward {sample['total']:g}"] if rewards else []
    ended = "" if sample["terminated"] else ", truncated"
    mean = np.mean(sample["log_prob"] or [0.0], where=sample["sampled"] or [True])
    words = ", ".join([*total, *rewards, f"mean log-probability {mean:.2f}"])
    return f"{words}, {len(sample['pieces'])} tokens{ended}"
