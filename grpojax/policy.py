"""The policy contract, and the only place where a sequence is shifted by one.

A policy is an Equinox module for ONE stream; batches are somebody else's `vmap`.
"""

import abc
from typing import Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from .types import Axes, Prompt


_Cache = TypeVar("_Cache")


class Past(eqx.Module, Generic[_Cache]):
    """What a chunk may look back on: the cache of tokens that came before.

    **Fields:**

    - `cache`: what `extend` returned for them, or columns collected from several
        chunks. It is only read, and may be shared by many streams (`vmap` with
        `in_axes=None`), such as the prompt of a group.
    - `visible`: which columns each token of the chunk sees; one row stands for all.
    """

    cache: _Cache
    visible: Bool[Array, "#chunk column"]


class AbstractPolicy(eqx.Module, Generic[_Cache]):
    """A language model that can be sampled from and scored by one function, `extend`.

    Laws, which `grpojax.testing.check_policy` checks:

    - any chunking of a sequence gives what the whole gives;
    - a token's result depends on what it can see and on nothing else: not on batch
      mates, padding, columns that are not visible, or the order of columns.
    """

    vocab_size: eqx.AbstractVar[int]
    """How many logits there are."""

    @abc.abstractmethod
    def extend(
        self,
        tokens: Int[Array, " chunk"],
        positions: Int[Array, " chunk"],
        *past: Past[_Cache],
        visible: Bool[Array, "chunk chunk"] | None = None,
    ) -> tuple[Float[Array, "chunk hidden"], _Cache]:
        """Reads a chunk: a whole prompt, one token, or a whole completion.

        **Arguments:**

        - `tokens`: the chunk's token ids.
        - `positions`: each token's position in its own sequence.
        - `past`: any number of caches that the chunk looks back on.
        - `visible`: which tokens of the chunk each of them sees, itself among them; by
            default those up to itself.

        **Returns:** the hidden states from which `logits` predicts each next token,
        and the chunk's own cache, one column for each token.
        """

    @abc.abstractmethod
    def write(self, cache: _Cache, chunk: _Cache, column: Int[ArrayLike, ""]) -> _Cache:
        """A cache with a chunk's own cache written to `column` and those after it.

        How a cache is laid out is the policy's business, but for this: all of its
        arrays have an axis in front that is not the columns', such as the layers'. The
        decode engine puts its slots behind it and, since they all write to one column,
        calls this for all of them at once, not under `vmap`.
        """

    @abc.abstractmethod
    def logits(self, hidden: Float[Array, "*batch hidden"]) -> Float[Array, "*batch v"]:
        """Unnormalized log-probabilities of the next token, float32."""

    @abc.abstractmethod
    def for_decoding(self, rows: int | None = None) -> "AbstractPolicy":
        """The policy laid out for many small steps, such as weights cast once.

        Its caches may be of a kind of their own.

        **Arguments:**

        - `rows`: how many streams take a step at a time, where that is known.
        """

    def trainable(self) -> PyTree[bool]:
        """The same tree with, for every leaf, whether it is trained.

        By default all float arrays are. The others are constants of the update: they
        get no gradient and no state of the optimizer, and do not change by a bit.
        """
        return jax.tree.map(eqx.is_inexact_array, self)

    def logical_axes(self) -> PyTree[Axes]:
        """The names of every array's axes, by which a mesh cuts them.

        The policy's own tree with `Axes` in the place of every array. By default no
        axis has a name, and every device holds all of the policy.
        """
        arrays = eqx.filter(self, eqx.is_array)
        return jax.tree.map(lambda x: Axes((None,) * x.ndim, x.shape), arrays)


def completion_hidden(
    policy: AbstractPolicy[_Cache],
    prompt: Prompt,
    tokens: Int[Array, "*group time"],
    context: _Cache | None = None,
    position: Int[Array, "*group time"] | None = None,
) -> Float[Array, "*group time hidden"]:
    """The hidden state that predicts each completion token, for one prompt's group.

    The prompt is run once for the whole group. Its last token is not read from the
    prompt's cache but heads every completion's chunk: `hidden[t]` then predicts
    `tokens[t]`, in the sampler and here alike.

    **Arguments:**

    - `policy`, `prompt`: of one stream.
    - `tokens`: of completions.
    - `context`: what `prefill` made of the prompt; made here by default.
    - `position`: each token's position in its own completion, where several are laid
        end to end in one stream; a token sees those of its own.
    """
    if context is None:
        context = prefill(policy, prompt)
    # The prompt's last token heads the chunk instead.
    in_prompt = jnp.arange(prompt.tokens.shape[0]) < prompt.length - 1
    read = Past(context, in_prompt[None])
    last = prompt.tokens[prompt.length - 1]
    time = tokens.shape[-1]

    def one(row: Int[Array, " time"], position: Int[Array, " time"] | None):
        before = jnp.concatenate([last[None], row[:-1]])
        visible, offset = None, jnp.arange(time)
        if position is not None:
            before = jnp.where(position == 0, last, before)
            age = offset[:, None] - offset[None]
            visible = (age >= 0) & (age <= position[:, None])
            offset = position
        hidden, _ = policy.extend(
            before, prompt.length - 1 + offset, read, visible=visible
        )
        return hidden

    for _ in range(tokens.ndim - 1):
        one = jax.vmap(one)
    return one(tokens, position)


def prefill(policy: AbstractPolicy[_Cache], prompt: Prompt) -> _Cache:
    """The cache of one prompt, which its whole group may read."""
    return policy.extend(prompt.tokens, jnp.arange(prompt.tokens.shape[0]))[1]


def token_log_prob(
    logits: Float[Array, "*batch vocab"],
    tokens: Int[Array, "*batch"],
    temperature: Float[ArrayLike, ""] = 1.0,
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Log-probability of each token, and the entropy, at a temperature.

        z = logits / temperature
        log π(y) = z[y] - logsumexp(z)
        H        = logsumexp(z) - Σ softmax(z) z

    **Arguments:**

    - `logits`: float32, before the temperature.
    - `tokens`: the tokens to score.
    - `temperature`: divides the logits, never the log-probabilities.

    **Returns:** log-probabilities and entropies in nats.
    """
    return _log_prob(logits / jnp.asarray(temperature, logits.dtype), tokens)


SUMS = "sums"
"""The name of what the gradient of `token_log_prob` needs beside logits."""


@jax.custom_vjp
def _log_prob(
    scaled: Float[Array, "*batch vocab"], tokens: Int[Array, "*batch"]
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    return _remember(scaled, tokens)[0]


def _remember(scaled: Array, tokens: Array):
    """Reads the logits twice: for their peak, and for both sums of exponentials."""
    peak = jnp.max(scaled, axis=-1, keepdims=True)
    below = scaled - peak
    weight = jnp.exp(below)
    # `where`: a logit of -inf has probability 0 and contributes nothing.
    moment = jnp.sum(jnp.where(weight > 0, weight * below, 0), axis=-1)
    total = jnp.sum(weight, axis=-1)
    chosen = jnp.take_along_axis(below, tokens[..., None], axis=-1)[..., 0]
    log_total, mean = jnp.log(total), moment / total
    sums = (checkpoint_name(peak[..., 0] + x, SUMS) for x in (log_total, mean))
    return (chosen - log_total, log_total - mean), (scaled, tokens, *sums)


def _pull(residuals, cotangents: tuple[Array, Array]):
    """One pass from logits to their gradient, where a chain of rules takes several.

    d log π(y) / dz = 1[y] - p,    d H / dz = -p (z - Σ p z)
    """
    scaled, tokens, normalizer, mean = residuals
    of_chosen, of_entropy = (x[..., None] for x in cotangents)
    probability = jnp.exp(scaled - normalizer[..., None])
    above = jnp.where(probability > 0, scaled - mean[..., None], 0)
    here = jnp.arange(scaled.shape[-1]) == tokens[..., None]
    gradient = of_chosen * (here - probability) - of_entropy * probability * above
    return gradient.astype(scaled.dtype), None


_log_prob.defvjp(_remember, _pull)


def empty_cache(policy: AbstractPolicy[_Cache], columns: int) -> _Cache:
    """A cache of so many columns for one stream, for `write` to fill; all zeros."""
    token = jnp.zeros(columns, jnp.int32)
    shapes = jax.eval_shape(lambda: policy.extend(token, token)[1])
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def as_prompt(prompt: Prompt | Int[ArrayLike, " prefix"]) -> Prompt:
    """A prompt, or the token ids of one, as an unpadded `Prompt` of one stream."""
    if isinstance(prompt, Prompt):
        return prompt
    tokens = jnp.asarray(prompt)
    if tokens.ndim != 1 or tokens.shape[0] == 0:
        raise ValueError(
            "A prompt is a non-empty row of token ids. Received an array of shape "
            f"{tokens.shape}. Batches are `jax.vmap`; an empty prompt needs at least a "
            "beginning-of-sequence token."
        )
    return Prompt(tokens, jnp.asarray(tokens.shape[0], jnp.int32))


def logits(
    policy: AbstractPolicy, tokens: Int[ArrayLike, " time"]
) -> Float[Array, "time vocab"]:
    """Logits after every token of one stream: row `t` predicts token `t + 1`."""
    tokens = as_prompt(tokens).tokens
    hidden, _ = policy.extend(tokens, jnp.arange(tokens.shape[0]))
    return policy.logits(hidden)


def log_prob(
    policy: AbstractPolicy,
    prompt: Prompt | Int[ArrayLike, " prefix"],
    tokens: Int[ArrayLike, " time"],
    *,
    temperature: Float[ArrayLike, ""] = 1.0,
) -> Float[Array, " time"]:
    """Teacher-forced log-probability of each completion token, for one stream.

        log π(tokens[t] | prompt, tokens[:t]) at the given temperature

    **Arguments:**

    - `policy`: the policy that scores.
    - `prompt`: a `Prompt` of one stream, or its token ids.
    - `tokens`: the completion's token ids.
    - `temperature`: divides the logits.

    **Returns:** log-probabilities in nats, `Float[time]`.
    """
    tokens = jnp.asarray(tokens)
    hidden = completion_hidden(policy, as_prompt(prompt), tokens)
    return token_log_prob(policy.logits(hidden), tokens, temperature)[0]
