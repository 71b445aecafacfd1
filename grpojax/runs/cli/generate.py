"""Lets a recipe's model answer, to look at what it says and how sure it is."""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key
from rich.console import Console
from rich.text import Text

from ... import rollout
from ...env import AbstractDatasetEnvironment, TimeStep, Turn
from ...policy import AbstractPolicy
from ...reward import RewardFn
from ...sharding import spmd
from ...text import AbstractTokenizer
from ...types import Prompt
from ..distributed import mesh as placement
from ..io.samples import Samples, to_records
from ..recipe import build as parts
from ..recipe.schema import Recipe
from .evaluate import say


class Asked(AbstractDatasetEnvironment[Int[Array, ""]]):
    """Prompts of a person, to which nobody knows the answer: nothing is paid.

    The state is the prompt's number.
    """

    prompts: Prompt
    end_tokens: Int[Array, " end"]
    vocab_size: int = eqx.field(static=True)
    max_completion_length: int = eqx.field(static=True)

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        tokenizer: AbstractTokenizer,
        *,
        max_completion_length: int,
    ):
        """**Arguments:**

        - `prompts`: their tokens.
        - `tokenizer`: the policy's.
        - `max_completion_length`: the horizon in tokens.
        """
        lengths = [len(prompt) for prompt in prompts]
        if min(lengths, default=0) < 1:
            raise ValueError(
                "A prompt needs at least one token. Received prompts of "
                f"{lengths} tokens: write something."
            )
        tokens = np.zeros((len(prompts), max(lengths)), np.int32)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[: len(prompt)] = prompt
        self.prompts = Prompt(jnp.asarray(tokens), jnp.array(lengths, jnp.int32))
        self.end_tokens = jnp.array(tokenizer.end_tokens, jnp.int32)
        self.vocab_size = tokenizer.vocab_size
        self.max_completion_length = max_completion_length

    @property
    def max_prompt_length(self) -> int:
        return self.prompts.tokens.shape[1]

    @property
    def max_turns(self) -> int:
        return 1

    @property
    def size(self) -> int:
        return self.prompts.length.shape[0]

    def problem(self, index: Int[Array, ""]) -> tuple[Int[Array, ""], Prompt]:
        return index, jax.tree.map(lambda x: x[index], self.prompts)

    def step(
        self, state: Int[Array, ""], turn: Turn
    ) -> tuple[Int[Array, ""], TimeStep]:
        del turn
        silence = jnp.zeros(0, jnp.int32), jnp.zeros((), jnp.int32)
        return state, TimeStep(*silence, rewards={}, done=jnp.ones((), bool))


class Setup(NamedTuple):
    """A model, what it is asked, and who pays it, if anybody does."""

    recipe: Recipe
    policy: AbstractPolicy
    tokenizer: AbstractTokenizer
    env: AbstractDatasetEnvironment
    reward: RewardFn | None
    problems: int
    samples: int
    mesh: Mesh | None = None


def prepare(
    recipe: Recipe,
    prompts: Sequence[str] = (),
    *,
    problems: int = 4,
    samples: int = 1,
) -> Setup:
    """Loads a recipe's model, and its problems unless there are prompts.

    **Arguments:**

    - `recipe`: which model; how prompts are put (`data.chat`, `data.system_prompt`),
        how long the answers may be, how they are drawn and what they are worth.
    - `prompts`: texts to answer instead of the problems that are held out.
    - `problems`: how many of those, if there are so many.
    - `samples`: completions of each.

    **Raises:** `ValueError` or `OSError` for what is not there or does not fit.
    """
    for name, size in (("problems", problems), ("samples", samples)):
        if size < 1:
            raise ValueError(
                f"generate: {name} must be a positive integer. Received {size}."
            )
    parts.find_task(recipe.data.task)
    mesh = placement.build_mesh(**vars(recipe.mesh))
    policy, tokenizer = parts.load_model(recipe, mesh)
    if prompts:
        env = Asked(
            [_tokens(recipe, tokenizer, prompt) for prompt in prompts],
            tokenizer,
            max_completion_length=recipe.rollout.max_new_tokens,
        )
        env, count = placement.place(env, mesh), len(prompts)
        return Setup(recipe, policy, tokenizer, env, None, count, samples, mesh)
    made = parts.build_environments(recipe, tokenizer, mesh)
    env = made.train if made.held_out is None else made.held_out
    pay, count = parts.build_reward(recipe), min(problems, env.size)
    return Setup(recipe, policy, tokenizer, env, pay, count, samples, mesh)


def _tokens(recipe: Recipe, tokenizer: AbstractTokenizer, prompt: str) -> list[int]:
    if not recipe.data.chat:
        return tokenizer.encode(prompt)
    system = recipe.data.system_prompt
    messages = [] if system is None else [{"role": "system", "content": system}]
    return tokenizer.chat([*messages, {"role": "user", "content": prompt}])


@eqx.filter_jit
def _complete(
    policy: AbstractPolicy,
    env: AbstractDatasetEnvironment,
    reward: RewardFn | None,
    sampler: rollout.AbstractSampler,
    key: Key[Array, ""],
    *,
    problems: int,
    samples: int,
) -> Samples:
    # Every part of a mesh has as many; what is too many is thrown away.
    dealt = -(-problems // spmd.shards()) * spmd.shards()
    numbers = jnp.minimum(jnp.arange(dealt), problems - 1)
    states, prompts = jax.vmap(env.problem)(numbers)
    said = rollout.complete(
        policy, env, states, prompts, group=samples, sampler=sampler, key=key
    )
    paid = None if reward is None else reward(said)
    every = Samples.of(said, paid)
    return placement.replicate(jax.tree.map(lambda x: x[:problems], every))


def generate(
    recipe: Recipe,
    prompts: Sequence[str] = (),
    *,
    problems: int = 4,
    samples: int = 1,
) -> list[dict[str, object]]:
    """What a recipe's model says, and what that is worth.

    The arguments are those of `prepare`.

    **Returns:** what `run` returns.
    """
    return run(prepare(recipe, prompts, problems=problems, samples=samples))


def run(setup: Setup) -> list[dict[str, object]]:
    """Lets the model answer what was prepared.

    **Returns:** a record for each problem; see `to_records`. Nobody has
    learned from it: the step is 0 and the advantages are NaN.
    """
    with placement.use(setup.mesh):
        said = _complete(
            setup.policy,
            setup.env,
            setup.reward,
            parts.build_sampler(setup.recipe),
            parts.build_keys(setup.recipe).evaluate,
            problems=setup.problems,
            samples=setup.samples,
        )
    return list(to_records(0, jax.device_get(said), setup.tokenizer))


def tint(probability: float) -> str:
    """A color from red, for 0, over yellow to green, for 1."""
    red, green = min(2 - 2 * probability, 1), min(2 * probability, 1)
    return f"rgb({round(215 * red)},{round(175 * green)},0)"


def show(records: Sequence[dict], console: Console) -> None:
    """Prints records of completions, each token in the color of its probability."""
    legend = Text("probability of a token when it was drawn: ")
    for probability in (0.0, 0.25, 0.5, 0.75, 1.0):
        legend.append(f"{probability:g} ", tint(probability))
    console.print(legend)
    for record in records:
        say(console, f"\n{record['prompt'].strip()}", style="dim")
        for sample in record["samples"]:
            line = Text("> ")
            tokens = zip(
                sample["pieces"], sample["log_prob"], sample["sampled"], strict=True
            )
            for piece, log_prob, sampled in tokens:
                line.append(piece, tint(np.exp(log_prob)) if sampled else "dim")
            console.print(line, soft_wrap=True)
            say(console, f"  {worth(sample)}")


def worth(sample: dict) -> str:
    """What a completion was paid, and how it ended, in a line."""
    paid = [f"{name} {value:g}" for name, value in sample["rewards"].items()]
    total = [f"reward {sample['total']:g}"] if paid else []
    ended = "" if sample["terminated"] else ", cut short"
    mean = np.mean(sample["log_prob"] or [0.0], where=sample["sampled"] or [True])
    words = ", ".join([*total, *paid, f"mean log-probability {mean:.2f}"])
    return f"{words}, {len(sample['pieces'])} tokens{ended}"
