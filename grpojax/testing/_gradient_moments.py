"""Exact moments of gradient estimators, by enumeration of all batches."""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._checks import check_counts
from ..algorithms import Algorithm
from ..types import Rewards
from ..update import Batch, LossInputs


_MOST_BATCHES = 1_000_000


class CompletionTree:
    """All completions of at most `horizon` tokens, of which token 0 is the end.

    A completion ends with its first 0, or is truncated. Completions are in the order of
    their tokens; a context is what has been sampled so far: one of the sequences of
    fewer than `horizon` tokens without a 0.

    **Arguments:**

    - `vocab`: number of tokens, at least 2.
    - `horizon`: number of tokens of the longest completion.

    **Fields:**

    - `tokens`, `sampled`, `context`: of each completion: its tokens, the mask of those
        that were sampled, and the number of the context that each was sampled in,
        `[completion time]`; 0 after the end.
    - `contexts`: the contexts, as tuples of tokens.

    **Raises:** `ValueError` for sizes below these.

    !!! example

        ```python
        tree = CompletionTree(3, 2)
        rewards = tree.tokens[:, -1] == 2  # A reward for [1, 2] and for [2, 2].
        ```
    """

    tokens: Int[np.ndarray, "completion time"]
    sampled: Bool[np.ndarray, "completion time"]
    context: Int[np.ndarray, "completion time"]
    contexts: list[tuple[int, ...]]

    def __init__(self, vocab: int, horizon: int):
        check_counts("CompletionTree", 2, vocab=vocab)
        check_counts("CompletionTree", 1, horizon=horizon)
        self.vocab, self.horizon = vocab, horizon
        every = itertools.product(range(vocab), repeat=horizon)
        # Zeros after the first one are padding.
        rows = [x for x in every if not any(x[x.index(0) :] if 0 in x else ())]
        lengths = [x.index(0) + 1 if 0 in x else horizon for x in rows]
        self.tokens = np.asarray(rows)
        self.sampled = np.arange(horizon) < np.asarray(lengths)[:, None]
        before = range(1, vocab)
        self.contexts = [
            x for t in range(horizon) for x in itertools.product(before, repeat=t)
        ]
        number = {x: n for n, x in enumerate(self.contexts)}
        found = [[number.get(x[:t], 0) for t in range(horizon)] for x in rows]
        self.context = np.where(self.sampled, np.asarray(found), 0)

    @property
    def lengths(self) -> Int[np.ndarray, " completion"]:
        """Number of sampled tokens of each completion."""
        return self.sampled.sum(axis=-1)

    def log_probs(
        self, logits: Float[Array, "prompt context vocab"]
    ) -> Float[Array, "prompt completion time"]:
        """Log-probability of each token of all completions, 0 after the end."""
        found = jax.nn.log_softmax(logits)[:, self.context, self.tokens]
        return jnp.where(self.sampled, found, 0)


class GradientMoments(eqx.Module):
    """Mean and variance of a gradient estimator, beside the gradient of the objective.

    **Fields:**

    - `truth`: ∇ J, with respect to the logits.
    - `mean`: the expectation of the estimator, -∇ loss.
    - `variance`: the trace of its covariance.

    `shape` is that of the logits, `[prompt context vocab]`.
    """

    truth: Float[Array, "prompt context vocab"]
    mean: Float[Array, "prompt context vocab"]
    variance: Float[Array, ""]

    @property
    def bias(self) -> Float[Array, ""]:
        """‖mean - truth‖ / ‖truth‖."""
        return jnp.linalg.norm(self.mean - self.truth) / jnp.linalg.norm(self.truth)

    @property
    def scale(self) -> Float[Array, ""]:
        """⟨mean, truth⟩ / ‖truth‖²: the length of the mean along the gradient."""
        return jnp.vdot(self.mean, self.truth) / jnp.vdot(self.truth, self.truth)

    @property
    def cosine_similarity(self) -> Float[Array, ""]:
        """The cosine of the angle between mean and truth."""
        lengths = jnp.linalg.norm(self.mean) * jnp.linalg.norm(self.truth)
        return jnp.vdot(self.mean, self.truth) / lengths

    @property
    def direction_bias(self) -> Float[Array, ""]:
        """‖mean / scale - truth‖ / ‖truth‖: the bias that no learning rate removes.

        It is the tangent of the angle between the two, of which
        `cosine_similarity` is the cosine.
        """
        rest = self.mean - self.scale * self.truth
        return jnp.linalg.norm(rest) / (self.scale * jnp.linalg.norm(self.truth))

    @property
    def noise(self) -> Float[Array, ""]:
        """variance / ‖mean‖²: batches whose average has as much signal as noise."""
        return self.variance / jnp.vdot(self.mean, self.mean)


def gradient_moments(
    algorithm: Algorithm,
    tree: CompletionTree,
    logits: Float[Array, "prompt context vocab"],
    rewards: Float[Array, "prompt completion"],
    *,
    group: int,
    behavior: Float[Array, "prompt context vocab"] | None = None,
) -> GradientMoments:
    """The exact moments of an algorithm's gradient for a tabular policy.

        J = mean over prompts of Σ π(completion) · reward(completion)
        mean = Σ over all batches of P(batch) · (-∇ loss(batch))

    A batch has `group` independent completions of every prompt. Nothing is sampled: all
    batches are enumerated, as multisets, which is exact for an algorithm that treats
    the members of a group alike. The estimator's side is the algorithm's own advantage,
    selection and objective; the moments are as exact as the dtype, so ask for float64
    (`jax.enable_x64`) where 1e-9 is to be seen.

    **Arguments:**

    - `algorithm`: without a KL penalty, as there is no reference.
    - `tree`: of all completions.
    - `logits`: of the policy that is differentiated, for each context.
    - `rewards`: of each completion.
    - `group`: number of completions in a group.
    - `behavior`: logits of the policy that has sampled, which is the old policy of the
        ratio, too; the policy itself when `None`.

    **Returns:** the moments.

    **Raises:** `ValueError` for shapes that do not fit, or more than a million batches.

    !!! example

        ```python
        tree = CompletionTree(3, 2)
        logits = jax.random.normal(jax.random.key(0), (1, len(tree.contexts), 3))
        rewards = jnp.asarray(tree.tokens[None, :, -1] == 2, float)
        moments = gradient_moments(algorithms.rloo(), tree, logits, rewards, group=2)
        ```
    """
    _check_shapes(tree, logits, rewards)
    sampler = logits if behavior is None else behavior
    totals = jnp.sum(tree.log_probs(sampler), axis=-1)
    batches, ways = _multisets(len(rewards), rewards.shape[1], group)
    chosen = jax.vmap(lambda rows, batch: rows[batch], in_axes=(0, 1), out_axes=1)
    log_weight = jnp.sum(chosen(totals, batches), axis=(1, 2))
    weight = jnp.exp(log_weight) * ways

    def estimate(batch: Int[Array, "prompt group"]) -> Float[Array, "..."]:
        loss = lambda logits: _loss(algorithm, tree, logits, sampler, rewards, batch)
        return -jax.grad(loss)(logits)

    def average(logits: Float[Array, "..."]) -> Float[Array, ""]:
        probability = jnp.exp(jnp.sum(tree.log_probs(logits), axis=-1))
        return jnp.sum(probability * rewards) / len(rewards)

    gradients = jax.lax.map(estimate, batches, batch_size=1024)
    mean = jnp.einsum("b,b...->...", weight, gradients)
    squares = jnp.sum((gradients - mean) ** 2, axis=(1, 2, 3))
    return GradientMoments(jax.grad(average)(logits), mean, jnp.vdot(weight, squares))


def _loss(
    algorithm: Algorithm,
    tree: CompletionTree,
    logits: Float[Array, "prompt context vocab"],
    sampler: Float[Array, "prompt context vocab"],
    rewards: Float[Array, "prompt completion"],
    batch: Int[Array, "prompt group"],
) -> Float[Array, ""]:
    """An algorithm's loss of a batch of completions, given by their numbers."""
    rows = lambda values: jax.vmap(lambda x, y: x[y])(values, batch)
    log_prob, old = rows(tree.log_probs(logits)), rows(tree.log_probs(sampler))
    lengths = jnp.asarray(tree.lengths, jnp.int32)[batch]
    given = Rewards.of(rows(rewards), lengths=lengths)
    advantage = algorithm.advantage(given)
    sampled = jnp.asarray(tree.sampled)[batch]
    drawn = Batch(
        advantage if advantage.ndim == 3 else advantage[..., None],
        sampled & algorithm.select(given)[..., None],
        old,
        old,
        entropy=rows(_entropies(tree, sampler)),
    )
    entropy = rows(_entropies(tree, logits))
    weights = algorithm.objective.loss_weights(drawn)
    return algorithm.objective(LossInputs(log_prob, entropy, drawn, weights))[0]


def _entropies(
    tree: CompletionTree, logits: Float[Array, "prompt context vocab"]
) -> Float[Array, "prompt completion time"]:
    log_prob = jax.nn.log_softmax(logits)
    entropy = -jnp.sum(jnp.exp(log_prob) * log_prob, axis=-1)
    return jnp.where(tree.sampled, entropy[:, tree.context], 0)


def _multisets(
    prompts: int, completions: int, group: int
) -> tuple[Int[Array, "batch prompt group"], Float[Array, " batch"]]:
    """All batches, the members of each group in order, and the orders of each."""
    check_counts("gradient_moments", 1, group=group)
    count = math.comb(completions + group - 1, group) ** prompts
    if count > _MOST_BATCHES:
        raise ValueError(
            f"gradient_moments enumerates at most {_MOST_BATCHES:,} batches. Received "
            f"{prompts} prompts x {group} of {completions} completions, which are "
            f"{count:,}: take fewer prompts, a smaller group or a shorter horizon."
        )
    groups = np.asarray(
        list(itertools.combinations_with_replacement(range(completions), group))
    )
    repeats = [[math.factorial(int(n)) for n in np.bincount(x)] for x in groups]
    ways = np.asarray([math.factorial(group) / math.prod(x) for x in repeats])
    index = np.indices((len(groups),) * prompts).reshape(prompts, -1).T
    return jnp.asarray(groups[index], jnp.int32), jnp.asarray(ways[index].prod(axis=-1))


def _check_shapes(tree: CompletionTree, logits: Array, rewards: Array):
    table, rows = (len(tree.contexts), tree.vocab), len(tree.tokens)
    prompts = logits.shape[0]
    if logits.shape[1:] != table or rewards.shape != (prompts, rows):
        raise ValueError(
            "gradient_moments takes logits of each context and a reward for each "
            f"completion of every prompt. Received shapes {logits.shape} and "
            f"{rewards.shape}: give [prompt, {table[0]}, {table[1]}] and "
            f"[prompt, {rows}]."
        )
