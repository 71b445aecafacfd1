import os

import jax
import pytest


# The tests compile much and compute little: without XLA's optimizations, unless
# `GRPOJAX_TEST_XLA=default`. Eight devices, for those of the meshes.
FLAGS = ["--xla_force_host_platform_device_count=8"]
if os.environ.get("GRPOJAX_TEST_XLA") != "default":
    FLAGS.append("--xla_backend_optimization_level=0")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Forgets what a module compiled.

    A compiled program holds several mappings of memory, of which a process may have
    65,530: a worker that kept all of them was seen to die while it compiled one more.
    """
    yield
    jax.clear_caches()
