"""Supervised learning of completions: a warm start before any rollout."""

import dataclasses
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from .. import sharding
from .._checks import check_counts, check_instances, check_parts
from ..curriculum import ShuffledEpochs
from ..policy import AbstractPolicy
from ..sharding import spmd
from ..types import Metrics, Prompt, TrainState, Trajectory
from ..update import improve, Objective, Reinforce, token_mean, UpdateConfig
from ._average import Averaging
from ._init import init


class Demonstrations(eqx.Module):
    """Prompts, each with the completion that is to be learned.

    **Fields:**

    - `prompt`: the prompts, `Prompt[row prefix]`.
    - `tokens`: the completions, right-padded, `Int[row time]`.
    - `learned`: mask of the tokens that are predicted, `Bool[row time]`.

    !!! example

        ```python
        rows = Demonstrations.of([[3, 1, 4]], [[1, 5, 2]])
        ```
    """

    prompt: Prompt
    tokens: Int[Array, "row time"]
    learned: Bool[Array, "row time"]

    @classmethod
    def of(
        cls, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> "Demonstrations":
        """Right-pads token ids.

        **Arguments:**

        - `prompts`: token ids of each, at least one.
        - `completions`: token ids of each, at least one; with the token that ends the
            completion, if that is to be learned, too.

        **Raises:** `ValueError` unless there are equally many, and none is empty.
        """
        if len(prompts) != len(completions) or not all([*prompts, *completions]):
            raise ValueError(
                "Demonstrations have a prompt and a completion each, of at least one "
                f"token. Received {len(prompts)} prompts and {len(completions)} "
                "completions, the shortest of "
                f"{min(map(len, [*prompts, *completions]), default=0)} tokens."
            )
        tokens, lengths = _padded(prompts)
        completions_, own = _padded(completions)
        learned = np.arange(completions_.shape[1]) < own[:, None]
        prompt = Prompt(jnp.asarray(tokens), jnp.asarray(lengths))
        return cls(prompt, jnp.asarray(completions_), jnp.asarray(learned))

    @property
    def size(self) -> int:
        """The number of rows."""
        return self.tokens.shape[0]

    def take(self, rows: Int[Array, " taken"]) -> "Demonstrations":
        """The demonstrations of the given row numbers."""
        return jax.tree.map(lambda x: x[rows], self)


def _padded(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of token ids, right-padded with 0, and their lengths."""
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens = np.zeros((len(rows), max(lengths, default=1)), np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
    return tokens, lengths


class SupervisedStep(eqx.Module):
    """A step of supervised learning: state -> (state, metrics), as a `TrainStep`.

        loss = -Σ weight · log π(y[t] | x, y[<t])

    over the completions of so many rows, each once per epoch in a shuffled order. It is
    the update of a train step whose trajectories are given and whose advantages are 1,
    so that it packs rows, accumulates microbatches and shards as that does, and `fit`
    makes a run of it.

    **Fields:**

    - `demonstrations`: what is learned.
    - `optimizer`: an optax transformation.
    - `rows`: demonstrations of a step.
    - `update`: epochs, minibatches and microbatches; see `UpdateConfig`.
    - `weight`: of the tokens, such as `update.token_mean`.
    - `vocab_size`: tokens from here on have probability 0; all count when `None`.
    - `average`: keeps an average of the weights in the state.

    **Raises:** `ValueError` if `rows` is not a positive integer.

    !!! example

        ```python
        step = SupervisedStep(demonstrations, optax.adam(1e-3), rows=16)
        state = grpojax.fit(step.init(policy, key=key), step, steps=100)
        ```
    """

    demonstrations: Demonstrations
    optimizer: optax.GradientTransformation
    rows: int = eqx.field(static=True)
    update: UpdateConfig = UpdateConfig()
    weight: Callable[[Bool[Array, "*rows time"]], Float[Array, "*rows time"]] = (
        token_mean
    )
    vocab_size: int | None = eqx.field(static=True, default=None)
    average: Averaging | None = None

    def __check_init__(self):
        check_counts("SupervisedStep", 1, rows=self.rows)
        check_instances("SupervisedStep", optimizer=self.optimizer)
        check_parts("SupervisedStep", weight=self.weight)

    def init(self, policy: AbstractPolicy, *, key: Key[Array, ""]) -> TrainState:
        """The initial train state.

        **Arguments:** as those of `grpojax.init`; the others follow from the step.
        """
        memory = ShuffledEpochs().start(self.demonstrations.size)
        state = init(policy, optimizer=self.optimizer, curriculum=memory, key=key)
        if self.average is None:
            return state
        return dataclasses.replace(state, average=self.average.init(policy))

    def draw(self, state: TrainState) -> tuple[Int[Array, " rows"], PyTree]:
        """The numbers of the next step's rows, and the memory after it."""
        order, memory = ShuffledEpochs(), state.curriculum
        rows = order.draw(memory, state.key, state.version, self.rows)
        rows = spmd.replicate(rows)
        return rows, order.advance(memory, rows)

    def __call__(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """One step: the next state, and the step's metrics."""
        rows, memory = self.draw(state)
        given = self.demonstrations.take(rows)
        policy, opt_state, metrics = improve(
            state.policy,
            state.opt_state,
            _trajectory(given, self.vocab_size),
            jnp.ones((self.rows, 1), jnp.result_type(float)),
            objective=Objective(surrogate=Reinforce(), weight=self.weight),
            optimizer=self.optimizer,
            config=self.update,
        )
        after = dataclasses.replace(
            state,
            policy=policy,
            opt_state=opt_state,
            version=state.version + 1,
            curriculum=memory,
        )
        if self.average is not None:
            moved = self.average.update(state.average, policy, after.version)
            after = dataclasses.replace(after, average=moved)
        return sharding.constrain(after), _measured(metrics, given, memory)


_KEPT = ("loss", "entropy", "grad_norm", "learning_rate", "skipped_updates")
"""Metrics of the update that do not compare the policy with a sampler."""


def _measured(metrics: Metrics, given: Demonstrations, memory: PyTree) -> Metrics:
    dtype = jnp.result_type(float)
    done = memory.position[0].astype(dtype) / memory.sizes[0]
    return {name: metrics[name] for name in _KEPT if name in metrics} | {
        "num_tokens": jnp.sum(given.learned, dtype=dtype),
        "epoch": memory.epoch[0].astype(dtype) + done,
    }


def _trajectory(given: Demonstrations, vocab_size: int | None) -> Trajectory:
    """Demonstrations as rows that were sampled, one of each prompt."""
    tokens, learned = given.tokens[:, None], given.learned[:, None]
    zeros = jnp.zeros(tokens.shape, jnp.float32)
    return Trajectory(
        prompt=given.prompt,
        tokens=tokens,
        sampled=learned,
        log_prob=zeros,
        version=jnp.where(learned, 0, -1),
        terminated=jnp.ones(tokens.shape[:2], bool),
        rewards={},
        temperature=jnp.ones((), jnp.result_type(float)),
        vocab_size=vocab_size,
    )
