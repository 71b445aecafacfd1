"""Kinds of values in a recipe: what they accept, and how a value is read as one."""

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Literal, NamedTuple, NewType

from ..io.tables import flatten
from . import yaml_format


Part = NewType("Part", object)
"""A part: its name, or a mapping with its name and its arguments."""

Parts = NewType("Parts", tuple)
"""A list of parts."""

Weights = NewType("Weights", Mapping)
"""Numbers by name."""

Choices = NewType("Choices", Mapping)
"""Lists of values by dotted key."""

Arguments = NewType("Arguments", Mapping)
"""The keys of a section that its own fields do not name."""

Environment = Mapping[str, str] | None
"""Variables by name; `None` takes texts as they are."""

_WORDS: dict[object, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a finite number",
    str: "a text",
    types.NoneType: "null",
    Part: "the name of a part, or a mapping with its name and arguments",
    Parts: "a list of parts",
    Weights: "a mapping from names to numbers",
    Choices: "a mapping from keys to lists of values",
    object: "a plain value",
}


class Range(NamedTuple):
    """A range of numbers in an annotation, and its words in messages."""

    words: str
    holds: Callable[[float], bool]


def at_least(minimum: int) -> Range:
    """The range of numbers that are not below a minimum."""
    return Range(f"at least {minimum}", lambda x: x >= minimum)


def at_most(maximum: int) -> Range:
    """The range of numbers that are not above a maximum."""
    return Range(f"at most {maximum}", lambda x: x <= maximum)


_INT32 = at_most(2**31 - 1)  # Of an array's index, and of most counters.
NonNegativeInt = Annotated[int, at_least(0), _INT32]
Seed = Annotated[int, at_least(0), at_most(2**32 - 1)]
"""A seed of `jax.random.key`, which ignores all but the lowest 32 bits."""
NonNegativeFloat = Annotated[float, at_least(0)]
PositiveInt = Annotated[int, at_least(1), _INT32]
PositiveFloat = Annotated[float, Range("positive", lambda x: x > 0)]


@functools.cache
def kinds_of(section: type) -> dict[str, object]:
    """The kinds of a dataclass's fields by name, without their ranges."""
    hints = typing.get_type_hints(section)
    return {field.name: hints[field.name] for field in dataclasses.fields(section)}


def fields_of(section: object) -> dict[str, object]:
    """The kinds of a section's keys, without the field that holds all others."""
    kinds = kinds_of(type(section)).items()
    return {field: kind for field, kind in kinds if Arguments not in members(kind)}


def check_ranges(key: str, section: object) -> None:
    """Raises a `ValueError` for a number out of the range in its field's annotation."""
    hints = typing.get_type_hints(type(section), include_extras=True)
    for field, value in vars(section).items():
        if not isinstance(value, int | float):
            continue
        for kind in members(hints[field]):
            for within in getattr(kind, "__metadata__", ()):
                if not within.holds(value):
                    raise ValueError(
                        f"`{key}.{field}` must be {within.words}. Received {value}."
                    )


class Section:
    """Base of a recipe's sections, which are frozen dataclasses.

    **Raises:** `ValueError` for a number out of the range in its field's annotation.
    """

    def __post_init__(self):
        check_ranges(type(self).__name__.lower(), self)

    def with_arguments(
        self, given: Mapping[str, object], environment: Mapping[str, str]
    ) -> typing.Any:
        """The section with arguments that are given; null selects the default."""
        own: typing.Any = self
        section = type(self).__name__.lower()
        given = {x: plain(f"{section}.{x}", y, environment) for x, y in given.items()}
        merged = {**own.arguments, **given}
        kept = {key: value for key, value in merged.items() if value is not None}
        return dataclasses.replace(own, arguments=kept)


def members(kind: object) -> tuple[object, ...]:
    """The kinds of a union; of any other kind itself."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if union else (kind,)


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
    """A value of one of a recipe's kinds, with variables replaced.

    Where no text is expected, a text with variables is read as YAML.

    **Arguments:**

    - `name`: the key, for messages.
    - `kind`: a type, a `Literal`, one of the kinds above, or a union of these.
    - `value`: from YAML.
    - `environment`: the variables; with `None` they have been replaced already.

    **Raises:** `ValueError` that says what was expected.
    """
    kinds = members(kind)
    if isinstance(value, str):
        value, environment = _expanded(name, kinds, value, environment), None
    words = {x for kind in kinds for x in typing.get_args(kind)}
    if isinstance(value, bool) and bool not in kinds and {"off"} & words:
        # To YAML `off`, `no` and `false` are one value, and so are `on` and `yes`.
        value = "on" if value else "off"
    for allowed in kinds:
        if _accepts(allowed, value):
            return _converted(name, allowed, value, environment)
    choices = lambda kind: "one of " + ", ".join(map(repr, typing.get_args(kind)))
    expected = " or ".join(_WORDS.get(x) or choices(x) for x in kinds)
    hint = ": put it in quotes" if str in kinds else ""
    raise ValueError(f"`{name}` must be {expected}. Received {value!r:.200}{hint}.")


def _expanded(name: str, kinds: tuple, text: str, environment: Environment) -> object:
    """A text with its variables, read as YAML if it has any and is to be no text."""
    expanded = text
    if environment is not None:
        expanded = yaml_format.expand(name, text, environment)
        if expanded == text:
            return text
    if {str, object} & set(kinds) or not set(kinds) <= _WORDS.keys():
        return expanded
    value = yaml_format.read(expanded, f"The value of `{name}`")
    is_part = Part in kinds and not isinstance(value, int | float)
    return expanded if is_part else value


def _accepts(kind: object, value: typing.Any) -> bool:
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and _is_finite(value)
    if kind is int and type(value) is int:
        return value.bit_length() < 64
    if kind is Part:
        name = value.get("name") if isinstance(value, Mapping) else value
        return isinstance(name, str) and value != ""
    if kind in (Parts, Weights):
        return isinstance(value, list | tuple if kind is Parts else Mapping)
    if kind is Choices:
        lists = isinstance(value, Mapping) and flatten(value).values()
        return bool(lists) and all(isinstance(x, list | tuple) and x for x in lists)
    return kind is object or type(value) is kind or value in typing.get_args(kind)


def _is_finite(value: int | float) -> bool:
    """Whether a number is finite, and a float can represent its size."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _converted(
    name: str, kind: object, value: typing.Any, environment: Environment
) -> object:
    if kind is float:
        return float(value)
    if kind in (Part, object):
        return plain(name, value, environment)
    if kind is Parts:
        items = enumerate(value)
        return tuple(check(f"{name}[{i}]", Part, x, environment) for i, x in items)
    if kind is Choices:
        return plain(name, flatten(value), environment)
    if kind is Weights:
        items = value.items()
        return {str(x): check(f"{name}.{x}", float, y, environment) for x, y in items}
    return value


def plain(name: str, value: object, environment: Environment) -> object:
    """A value made of numbers, texts, lists and mappings, with variables replaced.

    **Raises:** `ValueError` for anything else, such as a date or an infinite number.
    """
    if isinstance(value, str) and environment is not None:
        secret = name.endswith(".api_key")
        return (yaml_format.secret if secret else yaml_format.expand)(
            name, value, environment
        )
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float) and _is_finite(value):
        return value
    if isinstance(value, list | tuple):
        return [plain(f"{name}[{i}]", x, environment) for i, x in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(f"{name}.{key}", x, environment) for key, x in value.items()}
    raise ValueError(
        f"`{name}` must be made of finite numbers, texts, lists and mappings. Received "
        f"{value!r:.80}: put a text in quotes."
    )


def unknown_key(name: str, known: Iterable[str], where: str) -> ValueError:
    """The error for a key that is not there, with the nearest that is."""
    return ValueError(
        f"`{name}` is not a key of {where}. The nearest is `{nearest(name, known)}`; "
        "--print-config shows them all."
    )


def check_options(
    kind: type, values: Mapping[str, object], environment: Environment, task: str
) -> dict[str, object]:
    """The fields of a task's dataclass of options, from the keys of `data`.

    A field whose annotation is none of a recipe's kinds is taken as it is.

    **Raises:** `ValueError` for an unknown key, or a value of another kind.
    """
    kinds, checked = kinds_of(kind), {}
    for key, value in values.items():
        name = f"data.{key}"
        if key not in kinds:
            where = f"the task {task}, which has {', '.join(kinds) or 'none'}"
            raise unknown_key(name, [f"data.{x}" for x in ("task", *kinds)], where)
        is_kind = all(
            x in _WORDS or typing.get_origin(x) is Literal for x in members(kinds[key])
        )
        checked[key] = check(name, kinds[key], value, environment) if is_kind else value
    return checked
