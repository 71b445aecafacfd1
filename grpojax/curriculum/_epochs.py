"""Shuffled epochs: of all problems, or of each task in a weighted mixture."""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int, Key

from ..env import AbstractDatasetEnvironment
from ..types import Rewards
from ._curriculum import AbstractCurriculum, sample, step_key
from ._permutation import permuted


_EPOCHS = 0xFFFFFFFF  # Folded into the root key: no step has this number.


class Epochs(eqx.Module):
    """How far each task's epochs have come.

    **Fields:**

    - `epoch`: the epoch of each task, from 0, `Int[task]`.
    - `position`: problems of that epoch that were asked, `Int[task]`.
    - `weights`: how often each task is asked, relative to the others.
    - `sizes`: number of problems of each task, in the order of problem numbers.
    """

    epoch: Int[Array, " task"]
    position: Int[Array, " task"]
    weights: tuple[float, ...] = eqx.field(static=True)
    sizes: tuple[int, ...] = eqx.field(static=True)

    @classmethod
    def start(cls, sizes: tuple[int, ...], weights: tuple[float, ...]) -> "Epochs":
        # Two arrays: `fit` donates the memory of a state's arrays, of each once.
        zeros = lambda: jnp.zeros(len(sizes), jnp.int32)
        return cls(zeros(), zeros(), weights, sizes)

    def problems(
        self, key: Key[Array, ""], tasks: Int[Array, " count"]
    ) -> Int[Array, " count"]:
        """The next problems of tasks; `key` is the root key of the run."""
        sizes = jnp.array(self.sizes, jnp.int32)
        is_task = tasks[:, None] == jnp.arange(sizes.size, dtype=jnp.int32)
        before = jnp.cumsum(is_task, axis=0, dtype=jnp.int32) - 1
        rank = jnp.sum(jnp.where(is_task, before, 0), axis=1, dtype=jnp.int32)
        root = jr.fold_in(key, jnp.uint32(_EPOCHS))

        def problem(task, rank):
            size = sizes[task]
            # As (epoch, position), so that no number of steps overflows.
            later, rank = rank // size, rank % size
            wraps = rank >= size - self.position[task]
            epoch = self.epoch[task] + later + wraps.astype(jnp.int32)
            place = jnp.where(wraps, rank - size, rank) + self.position[task]
            order = jr.fold_in(jr.fold_in(root, task), epoch)
            return permuted(order, size, place)

        firsts = jnp.cumsum(sizes) - sizes
        return firsts[tasks] + jax.vmap(problem)(tasks, rank)

    def after(self, problems: Int[Array, " prompt"]) -> "Epochs":
        """The memory after problems were asked."""
        sizes = jnp.array(self.sizes, jnp.int32)
        ends = jnp.cumsum(sizes)
        tasks = jnp.searchsorted(ends, problems, side="right")
        asked = jnp.zeros_like(sizes).at[tasks].add(1)
        later, rest = asked // sizes, asked % sizes
        wraps = rest >= sizes - self.position
        position = self.position + jnp.where(wraps, rest - sizes, rest)
        epoch = self.epoch + later + wraps.astype(jnp.int32)
        return Epochs(epoch, position, self.weights, self.sizes)


class ShuffledEpochs(AbstractCurriculum[Epochs]):
    """Each problem once per epoch, in a new order each epoch.

        problem of the n-th prompt of the run = permutation_epoch(n mod size),
        epoch = floor(n / size)

    An epoch need not end with a step. The permutation of an epoch follows from the
    run's key and the epoch's number; each of its images is computed by itself (a
    Feistel network), so that a step costs the same for any number of problems, and the
    memory is two integers.
    """

    def init(self, env: AbstractDatasetEnvironment) -> Epochs:
        return self.start(env.size)

    @staticmethod
    def start(size: int) -> Epochs:
        """The memory at the start of a run over so many problems."""
        return Epochs.start((size,), (1.0,))

    def draw(
        self, memory: Epochs, key: Key[Array, ""], step: Int[Array, ""], count: int
    ) -> Int[Array, " count"]:
        del step
        return memory.problems(key, jnp.zeros(count, jnp.int32))

    def advance(self, memory: Epochs, problems: Int[Array, " prompt"]) -> Epochs:
        return memory.after(problems)

    def observe(
        self, memory: Epochs, problems: Int[Array, " prompt"], rewards: Rewards
    ) -> Epochs:
        del problems, rewards
        return memory


class Mixture(AbstractCurriculum[Epochs]):
    """Tasks in proportion to weights, and within each task shuffled epochs.

    The tasks are those of the environment (`env.tasks`), such as an
    `envs.mixture.Mixture`. In each step the tasks of the prompts are drawn by
    stratified sampling: of `n` prompts a task with share `w` gets `n · w` on average,
    and never two more or fewer.

    **Fields:**

    - `weights`: the weight of each task by name; equal ones when `None`.

    **Raises:** `ValueError` for weights that are negative or all 0, and in `init` for
    names that are not those of the environment's tasks.

    !!! example

        ```python
        Mixture({"addition": 1, "gsm8k": 3})
        ```
    """

    weights: Mapping[str, float | int] | None = eqx.field(default=None, static=True)

    def __init__(self, weights: Mapping[str, float | int] | None = None):
        if weights is not None and (
            not all(x >= 0 for x in weights.values()) or not any(weights.values())
        ):
            raise ValueError(
                "`Mixture.weights` are at least 0, and one of them is positive. "
                f"Received {dict(weights)}."
            )
        self.weights = None if weights is None else _Frozen(weights)

    def init(self, env: AbstractDatasetEnvironment) -> Epochs:
        tasks = env.tasks
        weights = dict.fromkeys(tasks, 1.0) if self.weights is None else self.weights
        if not tasks or weights.keys() != tasks.keys():
            raise ValueError(
                "`Mixture.weights` has a weight for each task of the environment: "
                f"{', '.join(tasks) or 'there are none'}. Received "
                f"{', '.join(weights) or 'none'}: name the same tasks, or join "
                "environments by `envs.mixture.Mixture`."
            )
        shares = tuple(float(weights[name]) for name in tasks)
        return Epochs.start(tuple(tasks.values()), shares)

    def draw(
        self, memory: Epochs, key: Key[Array, ""], step: Int[Array, ""], count: int
    ) -> Int[Array, " count"]:
        weights = jnp.array(memory.weights, jnp.result_type(float))
        tasks = sample(weights, step_key(key, step), count)
        return memory.problems(key, tasks)

    def advance(self, memory: Epochs, problems: Int[Array, " prompt"]) -> Epochs:
        return memory.after(problems)

    def observe(
        self, memory: Epochs, problems: Int[Array, " prompt"], rewards: Rewards
    ) -> Epochs:
        del problems, rewards
        return memory


class _Frozen(dict[str, float | int]):
    """A mapping that is hashed by its entries, as a static field is."""

    def __hash__(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return hash(frozenset(self.items()))
