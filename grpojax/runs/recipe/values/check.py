"""Checks of a recipe's values against their kinds."""

import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping

from . import yaml_format
from .env_interpolation import expand
from .kinds import Part, Parts, Weights


Environment = Mapping[str, str] | None
"""Variables by name; `None` takes texts as they are."""


_KINDS: dict[object, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a finite number",
    str: "a text",
    types.NoneType: "null",
    Part: "the name of a part, or a mapping with its name and arguments",
    Parts: "a list of parts",
    Weights: "a mapping from names to numbers",
    object: "a plain value",
}


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most similar to one that is unknown."""
    names = list(known)
    last = name.rpartition(".")[2].lower()
    lower = {x.lower().replace("_", ""): x for x in names}
    exact = lower.get(name.lower().replace("_", ""))
    if exact is not None:
        return exact
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    same = [x for x in names if x.rpartition(".")[2].lower() == last]
    return (same or found or [""])[0]


def check(name: str, kind: object, value: object, environment: Environment) -> object:
    """A value as its kind says, with variables replaced.

    Where no text is expected, a text with variables is read as YAML.

    **Arguments:**

    - `name`: the key, for messages.
    - `kind`: a type, a `Literal`, one of the `kinds`, or a union of these.
    - `value`: from YAML.
    - `environment`: the variables; with `None` they have been replaced already.

    **Raises:** `ValueError` that says what was expected.
    """
    kinds = members(kind)
    if isinstance(value, str):
        value, environment = _expanded(name, kinds, value, environment), None
    for allowed in kinds:
        found = _as(name, allowed, value, environment)
        if found is not _NOT:
            return found
    expected = " or ".join(map(_describe, kinds))
    hint = ": put it in quotes" if str in kinds else ""
    raise ValueError(f"`{name}` must be {expected}. Received {value!r}{hint}.")


def members(kind: object) -> tuple[object, ...]:
    """The kinds of a union; of any other kind itself."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if union else (kind,)


def is_kind(kind: object) -> bool:
    """Whether `check` knows a kind."""
    return all(
        x in _KINDS or typing.get_origin(x) is typing.Literal for x in members(kind)
    )


_NOT = object()


def _expanded(name: str, kinds: tuple, text: str, environment: Environment) -> object:
    expanded = text if environment is None else expand(name, text, environment)
    written = environment is not None and expanded == text
    if written or {str, object} & set(kinds) or not set(kinds) <= _KINDS.keys():
        return expanded
    value = yaml_format.read(expanded, f"The value of `{name}`")
    is_part = Part in kinds and not isinstance(value, int | float)
    return expanded if is_part else value


def _as(name: str, kind: object, value: object, environment: Environment) -> object:
    """The value if it is of a kind, else `_NOT`."""
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return _NOT
        return float(value) if math.isfinite(value) else _NOT
    if kind is object:
        return plain(name, value, environment)
    if kind is Part:
        named = isinstance(value, Mapping) and isinstance(value.get("name"), str)
        is_part = named or (isinstance(value, str) and value)
        return plain(name, value, environment) if is_part else _NOT
    if kind is Parts:
        if not isinstance(value, list | tuple):
            return _NOT
        return tuple(
            check(f"{name}[{i}]", Part, x, environment) for i, x in enumerate(value)
        )
    if kind is Weights:
        if not isinstance(value, Mapping):
            return _NOT
        return {
            str(key): check(f"{name}.{key}", float, x, environment)
            for key, x in value.items()
        }
    if type(value) is kind or value in typing.get_args(kind):
        return value
    return _NOT


def plain(name: str, value: object, environment: Environment) -> object:
    """A value made of numbers, texts, lists and mappings, with variables replaced.

    **Raises:** `ValueError` for anything else, such as a date or an infinite number.
    """
    if isinstance(value, str):
        return value if environment is None else expand(name, value, environment)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list | tuple):
        return [plain(f"{name}[{i}]", x, environment) for i, x in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(f"{name}.{key}", x, environment) for key, x in value.items()}
    raise ValueError(
        f"`{name}` must be made of finite numbers, texts, lists and mappings. Received "
        f"{value!r:.80}: put a text in quotes."
    )


def _describe(kind: object) -> str:
    if kind in _KINDS:
        return _KINDS[kind]
    return "one of " + ", ".join(map(repr, typing.get_args(kind)))
