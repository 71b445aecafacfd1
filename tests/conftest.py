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

# The library casts explicitly: the dtype of no result follows from promotion rules.
jax.config.update("jax_numpy_dtype_promotion", "strict")


def promotes(function):
    """A function that relies on promotion, and so do the functions that it returns."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        with jax.numpy_dtype_promotion("standard"):
            result = function(*args, **kwargs)
        return promotes(result) if callable(result) else result

    return wrapped


# Optax relies on it: Adam raises a float to the power of an integer count, and a
# schedule divides the count.
optax.tree.bias_correction = promotes(optax.tree.bias_correction)
for name in dir(optax):
    if name.endswith("_schedule"):
        setattr(optax, name, promotes(getattr(optax, name)))


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Forgets what a module compiled.

    A compiled program holds several mappings of memory, of which a process may have
    65,530: a worker that kept all of them was seen to die while it compiled one more.
    """
    yield
    jax.clear_caches()
