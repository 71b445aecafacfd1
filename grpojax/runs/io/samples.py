"""Sampled completions as JSON records, with their text and rewards."""

import codecs
from collections.abc import Iterator

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ...text import AbstractTokenizer
from ...types import Prompt, Rewards, Trajectory
from .records import Sample, SampleGroup


class Samples(eqx.Module):
    """Completions of a batch of prompts with their rewards, on device or host.

    **Fields:**

    - `prompt`: the prompts, once for their whole group.
    - `tokens`, `sampled`, `log_prob`, `terminated`: as in `Trajectory`.
    - `rewards`: components by name, before weighting; NaN where one does not apply.
    - `total`, `valid`: as in `Rewards`; NaN and false without rewards.
    - `advantages`: of each row, or of each token; NaN without.
    """

    prompt: Prompt
    tokens: Int[Array, "prompt group time"]
    sampled: Bool[Array, "prompt group time"]
    log_prob: Float[Array, "prompt group time"]
    terminated: Bool[Array, "prompt group"]
    rewards: dict[str, Float[Array, "prompt group"]]
    total: Float[Array, "prompt group"]
    valid: Bool[Array, "prompt group"]
    advantages: Float[Array, "prompt group *time"]

    @classmethod
    def of(
        cls,
        trajectory: Trajectory,
        rewards: Rewards | None = None,
        advantages: Float[Array, "prompt group *time"] | None = None,
    ) -> "Samples":
        """The samples of a trajectory, with what is known of their rewards."""
        unknown = jnp.full(trajectory.terminated.shape, jnp.nan)
        nothing = jnp.zeros(unknown.shape, bool)
        return cls(
            prompt=trajectory.prompt,
            tokens=trajectory.tokens,
            sampled=trajectory.sampled,
            log_prob=trajectory.log_prob,
            terminated=trajectory.terminated,
            rewards={} if rewards is None else rewards.components,
            total=unknown if rewards is None else rewards.total,
            valid=nothing if rewards is None else rewards.valid,
            advantages=unknown if advantages is None else advantages,
        )


def to_records(
    step: int, completions: Samples, tokenizer: AbstractTokenizer
) -> Iterator[dict[str, object]]:
    """The record of each prompt: a `SampleGroup` as JSON.

    `pieces`, `log_prob` and `sampled` end with the last sampled token. Numbers that do
    not apply are NaN.

    **Arguments:**

    - `step`: the step that they were sampled in.
    - `completions`: on the host.
    - `tokenizer`: the policy's.
    """
    prompts = completions.prompt
    for p in range(prompts.length.shape[0]):
        samples = []
        for g in range(completions.tokens.shape[1]):
            sampled = np.asarray(completions.sampled[p, g])
            # Only replies and padding follow the last sampled token.
            length = int(np.max(np.flatnonzero(sampled), initial=-1)) + 1
            tokens = [int(token) for token in completions.tokens[p, g, :length]]
            samples.append(
                Sample(
                    text=tokenizer.decode(tokens),
                    pieces=token_pieces(tokens, tokenizer),
                    log_prob=[
                        shortest_float(x) for x in completions.log_prob[p, g, :length]
                    ],
                    sampled=sampled[:length].tolist(),
                    rewards={
                        name: shortest_float(x[p, g])
                        for name, x in completions.rewards.items()
                    },
                    total=shortest_float(completions.total[p, g]),
                    valid=bool(completions.valid[p, g]),
                    advantage=shortest_float(_advantage(completions, p, g)),
                    terminated=bool(completions.terminated[p, g]),
                )
            )
        prompt = prompts.tokens[p, : int(prompts.length[p])]
        text = tokenizer.decode([int(token) for token in prompt])
        yield SampleGroup(step, text, samples).to_json()


def _advantage(completions: Samples, p: int, g: int) -> ArrayLike:
    """The advantage of a completion; the mean over tokens if each has its own."""
    advantage = np.asarray(completions.advantages[p, g])
    if advantage.ndim == 0:
        return advantage
    of_sampled = advantage[np.asarray(completions.sampled[p, g])]
    return np.sum(of_sampled) / max(of_sampled.size, 1)


def shortest_float(x: ArrayLike) -> float:
    """The number with the fewest digits that is this one in its own precision."""
    return float(str(np.asarray(x)[()]))


def token_pieces(tokens: list[int], tokenizer: AbstractTokenizer) -> list[str]:
    """What each token adds to the text.

    A character that several tokens make belongs to the last of them. A token without
    bytes, such as one that ends a turn, is shown by its name in the vocabulary.
    """
    known = tokenizer.token_bytes
    table, lengths = np.asarray(known.table), np.asarray(known.length)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    made = []
    for place, token in enumerate(tokens, 1):
        data = table[token, : lengths[token]].tobytes()
        name = "" if data else tokenizer.piece(token) or ""
        made.append(decoder.decode(data, final=place == len(tokens)) + name)
    return made
