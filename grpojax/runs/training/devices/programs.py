"""Programs of functions of pytrees, whose leaves other than arrays are constants."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.monitoring
import jax.stages
from jaxtyping import PyTree


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled function of pytrees, which takes those it was traced for."""

    compiled: jax.stages.Compiled
    static: PyTree

    def __call__(self, *arguments: PyTree) -> Any:
        arrays = eqx.filter(arguments, eqx.is_array)
        return eqx.combine(self.compiled(*arrays), self.static)


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A traced function of pytrees, and the shapes of its `results`."""

    lowered: jax.stages.Lowered
    results: PyTree
    static: PyTree

    def compile(self) -> Program:
        """Compiles it, the first time that it is called."""
        return self._program

    @functools.cached_property
    def _program(self) -> Program:
        return Program(self.lowered.compile(), self.static)


def trace(
    function: Callable[..., PyTree], *arguments: PyTree, donate: tuple[int, ...] = ()
) -> Lowered:
    """Traces a function, as `eqx.filter_jit` does, but for shapes, too.

    **Arguments:**

    - `function`: a function of the arguments.
    - `arguments`: trees of arrays or of `jax.ShapeDtypeStruct`.
    - `donate`: positions of the arguments that are donated.
    """
    is_array = lambda x: eqx.is_array(x) or isinstance(x, jax.ShapeDtypeStruct)
    dynamic, constants = eqx.partition(arguments, is_array)
    static: list[PyTree] = []

    def call(*dynamic: PyTree) -> PyTree:
        results, others = eqx.partition(
            function(*eqx.combine(dynamic, constants)), eqx.is_array
        )
        static[:] = [others]
        return results

    call.__name__ = function.__name__
    # What a program does not read is in memory all the same, and counted with it.
    jitted = jax.jit(call, donate_argnums=donate, keep_unused=True)
    traced = jitted.trace(*dynamic)
    return Lowered(traced.lower(), traced.out_info, static[0])


@contextlib.contextmanager
def cache_hits() -> Iterator[list[str]]:
    """A context that lists the programs that JAX reads from its persistent cache."""
    hits: list[str] = []

    def listen(event: str, **_: object) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_listener(listen)
