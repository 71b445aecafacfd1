"""Serializable descriptions of objects: the configuration of a run without a recipe."""

import dataclasses
import functools
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from .fingerprint import fingerprint


_MOST = 64  # Entries of a collection that are described one by one.


def describe(value: object) -> object:
    """Names and plain values of a tree, such as a `TrainStep`.

        describe(Clip(0.2, 0.3))  # {"name": "Clip", "low": 0.2, "high": 0.3}

    Arrays become `dtype[shape]`; those of one element their value. Functions become
    `module:name`, with the variables that they enclose: the learning rate in an optax
    optimizer is one. Long collections become a digest. Fields that are `None` are left
    out. The result holds mappings, lists and plain values, which YAML can represent.
    """
    return _describe(value, ())


def describe_arrays(values: Mapping[str, PyTree]) -> dict[str, str]:
    """Fingerprints of the arrays in each value, by name; of those that have any."""
    arrays = {
        name: jax.tree.leaves(eqx.filter(value, eqx.is_array))
        for name, value in values.items()
    }
    return {name: fingerprint(leaves) for name, leaves in arrays.items() if leaves}


def digest_columns(columns: Mapping[str, Sequence[object]]) -> str:
    """A digest of columns of rows, 16 hexadecimal digits; it knows no addresses."""
    plain = lambda value: re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(columns):
        for value in (name, *columns[name]):
            digest.update(json.dumps(value, default=plain).encode() + b"\n")
    return digest.hexdigest()


def _describe(value: object, outer: tuple[object, ...]) -> object:
    """`outer`: the functions that enclose the value, which may enclose themselves."""
    inside = functools.partial(_describe, outer=outer)
    if isinstance(value, Mapping | tuple | list) and len(value) > _MOST:
        return _digest(value)
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return _describe_array(value)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {str(name): inside(x) for name, x in value.items()}
    if isinstance(value, tuple | list):
        fields = getattr(value, "_fields", None)
        if fields is None:
            return [inside(x) for x in value]
        return _named(
            type(value).__name__, dict(zip(fields, value, strict=True)), outer
        )
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _named(type(value).__name__, vars(value), outer)
    if callable(value):
        return _describe_function(value, outer)
    return None if value is None else type(value).__name__


def _digest(values: Collection) -> str:
    """A long collection, such as the problems that a function of rewards looks up."""
    digest = hashlib.blake2b(repr(values).encode(), digest_size=8).hexdigest()
    return f"{type(values).__name__} of {len(values)}: {digest}"


def _named(
    name: str, fields: Mapping[str, object], outer: tuple[object, ...]
) -> dict[str, object]:
    inner = {key: _describe(x, outer) for key, x in fields.items()}
    known = {key: x for key, x in inner.items() if x is not None}
    return {"class" if "name" in known else "name": name, **known}


def _describe_array(array: jax.Array | np.ndarray | np.generic) -> object:
    if np.ndim(array) == 0 and np.dtype(array.dtype).kind in "biuf":
        return array.item()
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _describe_function(function: Callable, outer: tuple[object, ...]) -> object:
    """A function's name, with what it encloses, if that is anything."""
    if isinstance(function, functools.partial):
        given = {"arguments": list(function.args), **function.keywords}
        name = _describe_function(function.func, outer)
        return _named("partial", {"function": name, **given}, outer)
    # What a decorator wraps, and not what the decorator encloses.
    function = inspect.unwrap(function)
    named = function if hasattr(function, "__qualname__") else type(function)
    name = f"{named.__module__}:{named.__qualname__}"
    if any(function is other for other in outer):
        return name
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    cells = getattr(function, "__closure__", None) or ()
    enclosed: dict[str, object] = dict(zip(names, map(_content, cells), strict=False))
    if inspect.ismethod(function):
        enclosed["self"] = function.__self__
    described = _named(name, enclosed, (*outer, function))
    return described if len(described) > 1 else name


def _content(cell) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # Not assigned yet.
        return None
