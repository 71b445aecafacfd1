import functools
import os

import jax
import optax
import optax.tree
import pytest


# The tests compile much and compute little: without XLA's optimizations, unless
# `GRPOJAX_TEST_XLA=default`. Eight devices, for those of the meshes.
FLAGS = ["--xla_force_host_platform_device_count=8"]
if os.environ.get("GRPOJAX_TEST_XLA") != "default":
    FLAGS.append("--xla_backend_optimization_level=0")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))

# The library casts explicitly: no dtype of a result follows from promotion rules.
jax.config.update("jax_numpy_dtype_promotion", "strict")


def promoting(function):
    """A function of optax, which relies on promotion itself."""

    @functools.wraps(function)
    def promoted(*args, **kwargs):
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return promoted


def promoting_schedule(schedule):
    return functools.wraps(schedule)(lambda *args, **kwargs: promoting(schedule(*args, **kwargs)))


# Adam takes a float to the power of an integer; a schedule divides an integer count.
optax.tree.bias_correction = promoting(optax.tree.bias_correction)
optax.cosine_decay_schedule = promoting_schedule(optax.cosine_decay_schedule)


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Forgets what a module compiled.

    A compiled program holds several mappings of memory, of which a process may have
    65,530: a worker that kept all of them was seen to die while it compiled one more.
    """
    yield
    jax.clear_caches()
