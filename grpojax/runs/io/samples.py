"""Sampled completions: the record of a rollout on the device, and as JSON records."""

import codecs
import dataclasses
from collections.abc import Iterator

import equinox as eqx
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ...text import AbstractTokenizer
from ...types import Prompt, Rewards, Trajectory, TurnRewards
from .records import Sample, SampleGroup


class Samples(eqx.Module):
    """Completions of a batch of prompts, with their rewards and advantages.

    **Fields:**

    - `prompt`: the prompts, once for their whole group, `Prompt[prompt prefix]`.
    - `tokens`, `sampled`, `log_prob`: of each token, as in `Trajectory`,
        `[prompt group time]`.
    - `terminated`: rows that sampled an end token, `Bool[prompt group]`.
    - `rewards`: by component, before weighting, `Float[prompt group]` each; NaN where a
        component does not apply.
    - `total`, `valid`: the weighted reward, and whether a row counts in the loss, as in
        `Rewards`, `[prompt group]`; `None` without a reward function.
    - `advantage`: of each row or of each token, `Float[prompt group *time]`; `None`
        where nothing is trained.
    - `turns`: rewards of single turns, as in `Trajectory`.
    """

    prompt: Prompt
    tokens: Int[Array, "prompt group time"]
    sampled: Bool[Array, "prompt group time"]
    log_prob: Float[Array, "prompt group time"]
    terminated: Bool[Array, "prompt group"]
    rewards: dict[str, Float[Array, "prompt group"]]
    total: Float[Array, "prompt group"] | None = None
    valid: Bool[Array, "prompt group"] | None = None
    advantage: Float[Array, "prompt group *time"] | None = None
    turns: TurnRewards | None = None

    @classmethod
    def of(
        cls,
        trajectory: Trajectory,
        rewards: Rewards | None = None,
        advantages: Float[Array, "prompt group *time"] | None = None,
    ) -> "Samples":
        """The samples of a trajectory, with the advantages of rows or of tokens.

        Without the `rewards` of a reward function the components are the environment's.
        """
        return cls(
            prompt=trajectory.prompt,
            tokens=trajectory.tokens,
            sampled=trajectory.sampled,
            log_prob=trajectory.log_prob,
            terminated=trajectory.terminated,
            rewards=trajectory.rewards if rewards is None else rewards.components,
            total=None if rewards is None else rewards.total,
            valid=None if rewards is None else rewards.valid,
            advantage=advantages,
            turns=trajectory.turns,
        )


def to_records(
    step: int, samples: Samples, tokenizer: AbstractTokenizer
) -> Iterator[dict[str, object]]:
    """The JSON record of each prompt, with the samples of its group.

    See `records.SampleGroup` for the keys. `pieces`, `log_prob` and `sampled` have an
    entry for each token up to the last sampled one. Numbers that do not apply are NaN.
    The samples are on the host, from `jax.device_get`.
    """
    prompts, group = samples.prompt, samples.tokens.shape[1]
    for p in range(prompts.length.shape[0]):
        prompt = prompts.tokens[p, : int(prompts.length[p])]
        record = SampleGroup(
            step=step,
            prompt=tokenizer.decode([int(token) for token in prompt]),
            samples=[_to_sample(samples, p, g, tokenizer) for g in range(group)],
        )
        yield dataclasses.asdict(record)


def _to_sample(
    samples: Samples, p: int, g: int, tokenizer: AbstractTokenizer
) -> Sample:
    sampled = np.asarray(samples.sampled[p, g])
    # After the last sampled token there are an environment's reply, or padding.
    length = int(np.max(np.flatnonzero(sampled), initial=-1)) + 1
    tokens = [int(token) for token in samples.tokens[p, g, :length]]
    total, valid = samples.total, samples.valid
    return Sample(
        text=tokenizer.decode(tokens),
        pieces=token_pieces(tokens, tokenizer),
        log_prob=[shortest_float(x) for x in samples.log_prob[p, g, :length]],
        sampled=sampled[:length].tolist(),
        rewards={name: shortest_float(x[p, g]) for name, x in samples.rewards.items()},
        total=np.nan if total is None else shortest_float(total[p, g]),
        valid=False if valid is None else bool(valid[p, g]),
        advantage=_row_advantage(samples, p, g),
        terminated=bool(samples.terminated[p, g]),
        turns=_turn_rewards(samples, p, g),
    )


def _turn_rewards(samples: Samples, p: int, g: int) -> dict[str, list[float | None]]:
    """What each turn that was taken has paid."""
    if samples.turns is None:
        return {}
    taken = np.asarray(samples.turns.ends[p, g]) > 0
    rewards = samples.turns.rewards.items()
    return {x: [shortest_float(y) for y in paid[p, g][taken]] for x, paid in rewards}


def _row_advantage(samples: Samples, p: int, g: int) -> float:
    """A row's advantage; the mean over its sampled tokens if each has its own."""
    if samples.advantage is None:
        return np.nan
    advantage = np.asarray(samples.advantage[p, g])
    if advantage.ndim == 0:
        return shortest_float(advantage)
    sampled = advantage[np.asarray(samples.sampled[p, g])]
    return shortest_float(np.sum(sampled) / max(sampled.size, 1))


def shortest_float(x: ArrayLike) -> float:
    """The decimal with the fewest digits that rounds to `x` in its own dtype."""
    return float(str(np.asarray(x)[()]))


def token_pieces(tokens: list[int], tokenizer: AbstractTokenizer) -> list[str]:
    """The text that each token adds to the completion.

    A character of several tokens belongs to the last of them. A token without bytes,
    such as one that ends a turn, is shown by its name in the vocabulary, and an id
    beyond the vocabulary by its number.
    """
    token_bytes = tokenizer.token_bytes
    table, lengths = np.asarray(token_bytes.table), np.asarray(token_bytes.length)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = []
    for position, token in enumerate(tokens, 1):
        known = 0 <= token < len(lengths)
        data = table[token, : lengths[token]].tobytes() if known else b""
        name = "" if data else tokenizer.piece(token) or f"<{token}>"
        text = decoder.decode(data, final=position == len(tokens))
        pieces.append(text + name)
    return pieces
