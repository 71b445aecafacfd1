"""Log-probabilities and entropies from logits, with a gradient in one pass."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, ArrayLike, Float, Int


LOG_PROB_RESIDUALS = "log_prob_residuals"
"""The checkpoint name of the residuals of `token_log_prob` other than the logits."""


def mask_vocabulary(
    logits: Float[Array, "*batch vocab"], vocab_size: int | None
) -> Float[Array, "*batch vocab"]:
    """Logits with -inf from `vocab_size` on, so that no such token has a probability.

    Embeddings are padded to round numbers: Qwen2.5 has rows for ids that its tokenizer
    does not know.

    **Arguments:**

    - `logits`: float32.
    - `vocab_size`: static; `None` masks nothing.
    """
    if vocab_size is None or vocab_size >= logits.shape[-1]:
        return logits
    return jnp.where(jnp.arange(logits.shape[-1]) < vocab_size, logits, -jnp.inf)


def token_log_prob(
    logits: Float[Array, "*batch vocab"],
    tokens: Int[Array, "*batch"],
    temperature: Float[ArrayLike, ""] = 1.0,
    vocab_size: int | None = None,
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Log-probability of each token, and the entropy, at a temperature.

        z = logits / temperature
        log π(y) = z[y] - logsumexp(z)
        H        = logsumexp(z) - Σ softmax(z) z

    **Arguments:**

    - `logits`: float32, before the temperature.
    - `tokens`: the tokens to score.
    - `temperature`: divides the logits, never the log-probabilities.
    - `vocab_size`: tokens from here on have probability 0; all count when `None`.

    **Returns:** log-probabilities and entropies, in nats.
    """
    logits = mask_vocabulary(logits, vocab_size)
    return _log_prob(logits / jnp.asarray(temperature, logits.dtype), tokens)


@jax.custom_vjp
def _log_prob(
    scaled: Float[Array, "*batch vocab"], tokens: Int[Array, "*batch"]
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    return _fwd(scaled, tokens)[0]


def _fwd(scaled: Array, tokens: Array):
    """Reads the logits twice: for their maximum, and for both sums of exponentials."""
    peak = jnp.max(scaled, axis=-1, keepdims=True)
    below = scaled - peak
    weight = jnp.exp(below)
    # `where`: a logit of -inf has probability 0 and contributes nothing.
    moment = jnp.sum(jnp.where(weight > 0, weight * below, 0), axis=-1)
    total = jnp.sum(weight, axis=-1)
    chosen = jnp.take_along_axis(below, tokens[..., None], axis=-1)[..., 0]
    log_total, mean = jnp.log(total), moment / total
    normalizer, mean_logit = (
        checkpoint_name(peak[..., 0] + x, LOG_PROB_RESIDUALS) for x in (log_total, mean)
    )
    residuals = scaled, tokens, normalizer, mean_logit
    return (chosen - log_total, log_total - mean), residuals


def _bwd(residuals, cotangents: tuple[Array, Array]):
    """One pass from the logits to their gradient; autodiff would take several.

    d log π(y) / dz = 1[y] - p,    d H / dz = -p (z - Σ p z)
    """
    scaled, tokens, normalizer, mean_logit = residuals
    d_log_prob, d_entropy = (x[..., None] for x in cotangents)
    probability = jnp.exp(scaled - normalizer[..., None])
    centered = jnp.where(probability > 0, scaled - mean_logit[..., None], 0)
    one_hot = jnp.arange(scaled.shape[-1]) == tokens[..., None]
    one_hot = one_hot.astype(probability.dtype)
    gradient = d_log_prob * (one_hot - probability) - d_entropy * probability * centered
    return gradient.astype(scaled.dtype), None


_log_prob.defvjp(_fwd, _bwd)
