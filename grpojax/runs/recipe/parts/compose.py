"""Parts from their descriptions in a recipe: a name, and arguments.

    "drop_truncated"
    {name: Clip, low: 0.2, high: 0.28}
    {name: KL, coefficient: 0.04, estimator: k2}
    {name: my_package.rewards:Brief, most: 20}

A name is one that a module of the library exports, or `package.module:object`. It
refers to a class or a function that is called with the arguments; a function without
arguments that fits its place, such as a shaping, is taken as it is. An argument that is
itself called `name`, such as that of a reward's component, is written `as`.
"""

import dataclasses
import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

from ....types import FloatLike
from .. import yaml_format
from ..kinds import members, nearest
from .lookup import find


Given = Mapping[str, Callable[[], object]]
"""Arguments that the recipe itself provides where a part asks for them, by name."""

LATER: typing.Any = object()
"""An argument that is not known yet: the part is checked, and not made."""


@dataclasses.dataclass(frozen=True)
class Context:
    """Where the names of a part are looked up, and what is known besides them.

    **Fields:**

    - `modules`: where names are looked up, in this order.
    - `given`: arguments by the name of a parameter that has no default.
    - `siblings`: keys of the recipe beside the arguments, for the nearest name.
    """

    modules: Sequence[ModuleType]
    given: Given = dataclasses.field(default_factory=dict)
    siblings: Sequence[str] = ()


def keys_of(section: object) -> list[str]:
    """The keys of an open section that are no arguments."""
    return [key for key in vars(section) if key != "arguments"]


def make(
    key: str, part: object, context: Context, *, arity: int | None = None
) -> typing.Any:
    """A part from its description.

    **Arguments:**

    - `key`: of the recipe, for messages.
    - `part`: its name, or a mapping with its name and its arguments.
    - `context`: where names are looked up, and arguments that are not described.
    - `arity`: with how many arguments the part itself will be called; a function that
        can be is taken as it is, if no arguments are described.

    **Returns:** the part; `LATER` if one of its arguments is.

    **Raises:** `ValueError` for an unknown name or argument (with the nearest one), a
    missing argument, and what the part itself refuses, all with the key.
    """
    name, described = split(key, part)
    target = find(key, name, context.modules)
    if not isinstance(target, type) and not described:
        if not callable(target):
            return target  # A value of the user's module.
        if not inspect.isroutine(target) or _binds(target, arity):
            return target
    if not callable(target):
        raise ValueError(
            f"`{key}` has arguments, so its name must be a class or a function. "
            f"Received {name!r}, which is {target!r:.80}."
        )
    arguments = arguments_of(key, name, target, described, context)
    if any(value is LATER for value in arguments.values()):
        return LATER
    try:
        return target(**arguments)
    except (ValueError, TypeError) as error:
        raise ValueError(f"`{key}` is refused. {error}") from error


def split(key: str, part: object) -> tuple[str, dict[str, object]]:
    """The name and the arguments of a description; `as` is the argument `name`.

    **Raises:** `ValueError` with the key, for what describes no part.
    """
    if isinstance(part, str):
        return part, {}
    if isinstance(part, Mapping) and isinstance(part.get("name"), str):
        arguments = {name: value for name, value in part.items() if name != "name"}
        arguments = {"name" if x == "as" else x: y for x, y in arguments.items()}
        return str(part["name"]), arguments
    raise ValueError(
        f"`{key}` must be the name of a part, or a mapping with `name` and its "
        f"arguments. Received {part!r}."
    )


def parameters_of(target: Callable) -> Mapping[str, inspect.Parameter]:
    """The parameters of a class or a function, with their annotations evaluated."""
    try:
        return inspect.signature(target, eval_str=True).parameters
    except (NameError, SyntaxError, AttributeError, TypeError):
        # Annotations that only a type checker can evaluate.
        return inspect.signature(target).parameters


def _binds(target: Callable, arity: int | None) -> bool:
    if arity is None:
        return False
    try:
        inspect.signature(target).bind(*[None] * arity)
    except (TypeError, ValueError):
        return False
    return True


def arguments_of(
    key: str,
    name: str,
    target: Callable,
    described: Mapping[str, object],
    context: Context,
    *,
    supplied: Sequence[str] = (),
) -> dict[str, object]:
    """The arguments of a call, parts among them made.

    **Arguments:**

    - `key`, `name`: of the recipe, for messages.
    - `target`: what is called.
    - `described`: arguments in the recipe.
    - `context`: as for `make`.
    - `supplied`: parameters that the caller supplies.

    **Raises:** as `make`.
    """
    parameters = parameters_of(target)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    arguments = {}
    for argument, value in described.items():
        written = "as" if argument == "name" else argument
        if argument not in parameters and not open_ended:
            raise ValueError(
                _unknown(f"{key}.{written}", name, value, parameters, context)
            )
        arguments[argument] = _argument(
            f"{key}.{written}", value, parameters.get(argument), context
        )
    for argument, parameter in parameters.items():
        variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if argument in arguments or argument in supplied or variadic:
            continue
        if parameter.default is not parameter.empty:
            continue
        if argument not in context.given:
            written = "as" if argument == "name" else argument
            raise ValueError(
                f"`{key}` needs the argument `{written}` of {name}. Received "
                f"{dict(described)!r}: add `{written}`, "
                "or choose another part."
            )
        arguments[argument] = context.given[argument]()
    return arguments


def _unknown(
    key: str,
    name: str,
    value: object,
    parameters: Mapping[str, inspect.Parameter],
    context: Context,
) -> str:
    written = ["as" if x == "name" else x for x in parameters]
    near = nearest(key.rpartition(".")[2], [*written, *context.siblings])
    return (
        f"`{key}` must be an argument of {name}, which has "
        f"{', '.join(written) or 'none'}. Received {value!r}"
        + (f": the nearest is `{near}`." if near else ": leave it out.")
    )


def _argument(
    key: str,
    value: object,
    parameter: inspect.Parameter | None,
    context: Context,
) -> object:
    """A value, or the part that it describes."""
    context = dataclasses.replace(context, siblings=())
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return make(key, value, context)
    if isinstance(value, list):
        made = [_argument(f"{key}[{i}]", x, None, context) for i, x in enumerate(value)]
        return LATER if any(x is LATER for x in made) else made
    if parameter is None:
        return value
    kinds = members(parameter.annotation)
    if isinstance(value, str) and not _takes_text(kinds):
        number = _number(value)
        if number is None and {float, int} & set(kinds) and ":" not in value:
            raise ValueError(f"`{key}` must be a number. Received {value!r}.")
        if number is None:
            found = find(key, value, context.modules)
            return make(key, value, context) if isinstance(found, type) else found
        value = number
    if type(value) is int and _takes_float(kinds):
        return float(value)
    return value


def _takes_float(kinds: Sequence[object]) -> bool:
    """Whether 1 means 1.0: as a hyperparameter, or where no integer is expected."""
    hyperparameter = set(members(FloatLike)) <= set(kinds)
    return hyperparameter or (float in kinds and int not in kinds)


def _number(text: str) -> int | float | None:
    """The number that a variable stood for."""
    value = yaml_format.read(text, "An argument") if ":" not in text else None
    if isinstance(value, int | float) and math.isfinite(value):
        return value
    return None


def _takes_text(kinds: Sequence[object]) -> bool:
    texts = (str, inspect.Parameter.empty, object, typing.Any)
    literal = any(typing.get_origin(x) is typing.Literal for x in kinds)
    return literal or any(x in texts for x in kinds if not isinstance(x, str))
