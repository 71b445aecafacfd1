import functools
import os
import platform

import jax
import optax
import optax.tree
import pytest


# The tests compile much and compute little: without XLA's optimizations and by the
# emitter that takes a third of the time, unless `GRPOJAX_TEST_XLA=default`. Which
# products that emitter fuses with a sum differs between programs, and with it the last
# bit, so the instructions are those of a processor that cannot. Eight devices, for
# those of the meshes.
FLAGS = ["--xla_force_host_platform_device_count=8"]
if os.environ.get("GRPOJAX_TEST_XLA") != "default":
    FLAGS += [
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
    ]
    if platform.machine() == "x86_64":
        FLAGS.append("--xla_cpu_max_isa=AVX")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))

# No dtype of the library follows from a rule of promotion: where dtypes meet, it casts.
jax.config.update("jax_numpy_dtype_promotion", "strict")


def promoting(function):
    """A function of optax under JAX's own rules; a schedule is one that it returns."""

    @functools.wraps(function)
    def promoted(*args, **kwargs):
        with jax.numpy_dtype_promotion("standard"):
            result = function(*args, **kwargs)
        return promoting(result) if callable(result) else result

    return promoted


# Optax relies on promotion: Adam's bias correction takes a float to the power of an
# integer, and a schedule divides an integer count.
optax.tree.bias_correction = promoting(optax.tree.bias_correction)
for name in optax.__all__:
    if name.endswith("_schedule") and name != "scale_by_schedule":
        setattr(optax, name, promoting(getattr(optax, name)))


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """Commands keep compiled programs here, not in the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    """The folder of compiled programs: most modules need those of others."""
    folder = str(tmp_path_factory.mktemp("compiled"))
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return folder


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Forgets what a module compiled; it stays on the disk.

    A compiled program holds several mappings of memory, of which a process may have
    65,530: a worker that kept all of them was seen to die while it compiled one more.
    """
    yield
    jax.clear_caches()
