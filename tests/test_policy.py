"""Log-probabilities and entropies of tokens, and their gradient in one pass."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings, strategies as st

from grpojax.policy import token_log_prob


def as_defined(logits, tokens, temperature):
    log_probability = jax.nn.log_softmax(logits / temperature, axis=-1)
    chosen = jnp.take_along_axis(log_probability, tokens[..., None], axis=-1)[..., 0]
    probability = jnp.exp(log_probability)
    # A forbidden token has probability 0, and log-probability -inf.
    finite = jnp.where(probability > 0, log_probability, 0)
    return chosen, -jnp.sum(probability * finite, axis=-1)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.sampled_from([(), (3,), (2, 3)]),
    vocab=st.sampled_from([2, 7, 300]),
    size=st.sampled_from([0.1, 3.0, 30.0]),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    forbidden=st.booleans(),
)
def test_values_and_gradients_are_those_of_the_definition(
    seed, rows, vocab, size, temperature, forbidden
):
    generator = np.random.default_rng(seed)
    with jax.enable_x64(True):
        logits = jnp.asarray(generator.normal(scale=size, size=(*rows, vocab)))
        tokens = jnp.asarray(generator.integers(0, vocab - 1, rows))
        if forbidden:
            logits = logits.at[..., -1].set(-jnp.inf)
        weights = generator.normal(size=(2, *rows))

        def value(scores):
            return lambda *x: sum(
                jnp.sum(w * s) for w, s in zip(weights, scores(*x), strict=True)
            )

        for got, wanted in zip(
            token_log_prob(logits, tokens, temperature),
            as_defined(logits, tokens, temperature),
            strict=True,
        ):
            np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)
        got = jax.grad(value(token_log_prob))(logits, tokens, temperature)
        wanted = jax.grad(value(as_defined))(logits, tokens, temperature)
        if forbidden:
            assert not np.asarray(got)[..., -1].any()
            got, wanted = got[..., :-1], wanted[..., :-1]
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-12)


def test_a_temperature_has_a_gradient():
    """A hyperparameter may be learned or swept."""
    logits, tokens = jnp.array([[0.3, -1.0, 2.0]]), jnp.array([1])
    value = lambda scores: lambda t: jnp.sum(scores(logits, tokens, t)[0])
    got = jax.grad(value(token_log_prob))(1.3)
    np.testing.assert_allclose(got, jax.grad(value(as_defined))(1.3), rtol=1e-5)
