"""Parts from their descriptions in a recipe: a name, and arguments.

    "drop_truncated"
    {name: Clip, low: 0.2, high: 0.28}
    {name: KL, coefficient: 0.04, estimator: k2}
    {name: my_package.rewards:Brief, most: 20}

A name is one that a module of the library exports, or `package.module:object`. It
refers to a class or a function that is called with the arguments; a function that fits
its place, such as a shaping, is not called, and the arguments are bound to it. An
argument that is itself called `name`, such as that of a reward's component, is written
`as`.
"""

import collections.abc
import dataclasses
import functools
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

_NOT_SAID = inspect.Parameter.empty  # The annotation of a parameter without one.
_VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


@dataclasses.dataclass(frozen=True)
class Context:
    """Where the names of a part are looked up, and what is known besides them."""

    modules: Sequence[ModuleType]  # In this order.
    given: Given = dataclasses.field(default_factory=dict)
    siblings: Sequence[str] = ()  # Keys of the recipe beside the arguments.


def make(key: str, part: object, kind: object, context: Context) -> typing.Any:
    """A part from its description.

    **Arguments:**

    - `key`: of the recipe, for messages.
    - `part`: its name, or a mapping with its name and its arguments.
    - `kind`: of the part, as an annotation: a class, or `Callable[[...], ...]`. A
        function that can be called like that is not called here.
    - `context`: where names are looked up, and arguments that are not described.

    **Returns:** the part; `LATER` if one of its arguments is.

    **Raises:** `ValueError` for an unknown name or argument (with the nearest one), a
    missing argument, a part of another kind, and what the part itself refuses, all with
    the key.
    """
    name, described = split(key, part)
    made = target = find(key, name, context.modules)
    kind = next(x for x in members(kind))
    routine = inspect.isroutine(target) and not _is_called_as(target, kind)
    if described or isinstance(target, type) or routine:
        if not callable(target):
            raise ValueError(
                f"`{key}` has arguments, so its name must be a class or a function. "
                f"Received {name!r}, which is {target!r:.80}."
            )
        later = _called_later_with(target, described, kind, context)
        arguments = arguments_of(key, name, target, described, context, supplied=later)
        if any(value is LATER for value in arguments.values()):
            return LATER
        function = functools.partial(target, **arguments)
        try:
            made = function if later else function()
        except (ValueError, TypeError) as error:
            raise ValueError(f"`{key}` is refused. {error}") from error
    expected: typing.Any = typing.get_origin(kind) or kind
    if not isinstance(made, expected):
        raise ValueError(
            f"`{key}` must be of type `{expected.__name__}`, or a function that "
            f"returns it. Received {part!r}, which is {made!r:.80}: name another part."
        )
    return made


def split(key: str, part: object) -> tuple[str, dict[str, object]]:
    """The name and the arguments of a description; `as` is the argument `name`."""
    if isinstance(part, str):
        return part, {}
    if not isinstance(part, Mapping) or not isinstance(part.get("name"), str):
        raise ValueError(
            f"`{key}` must be the name of a part, or a mapping with `name` and its "
            f"arguments. Received {part!r}."
        )
    arguments = {x: value for x, value in part.items() if x != "name"}
    if "as" in arguments:
        arguments["name"] = arguments.pop("as")
    return str(part["name"]), arguments


def parameters_of(target: object) -> Mapping[str, inspect.Parameter]:
    """The parameters of a class or a function, with their annotations evaluated."""
    if not callable(target):
        return {}
    try:
        return inspect.signature(target, eval_str=True).parameters
    except (NameError, SyntaxError, AttributeError, TypeError):
        # Annotations that only a type checker can evaluate.
        return inspect.signature(target).parameters


def _is_called_as(target: Callable, kind: object) -> bool:
    """Whether a function has as many arguments as a kind of callables."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is not collections.abc.Callable or not arguments:
        return False
    if not isinstance(arguments[0], list):
        return False
    try:
        inspect.signature(target).bind(*arguments[0])
    except (TypeError, ValueError):
        return False
    return True


def _called_later_with(
    target: Callable,
    described: Mapping[str, object],
    kind: object,
    context: Context,
) -> list[str]:
    """The parameters that a function lacks and is called with as one of a kind."""
    if not inspect.isroutine(target):
        return []
    known = {*described, *context.given}
    missing = [
        name
        for name, x in parameters_of(target).items()
        if x.default is x.empty and x.kind not in _VARIADIC and name not in known
    ]
    fits = _is_called_as(functools.partial(target, **described), kind)
    return missing if fits else []


def arguments_of(
    key: str,
    name: str,
    target: Callable,
    described: Mapping[str, object],
    context: Context,
    *,
    supplied: Sequence[str] = (),
) -> dict[str, object]:
    """The arguments with which `make` calls a target, parts among them made.

    **Arguments:**

    - `described`: arguments in the recipe.
    - `supplied`: parameters that whoever calls it supplies.
    """
    parameters, arguments = parameters_of(target), {}
    kinds = {parameter.kind for parameter in parameters.values()}
    written = lambda argument: "as" if argument == "name" else argument
    for argument, value in described.items():
        where = f"{key}.{written(argument)}"
        if argument not in parameters and inspect.Parameter.VAR_KEYWORD not in kinds:
            known = [written(x) for x in parameters]
            near = nearest(written(argument), [*known, *context.siblings])
            raise ValueError(
                f"`{where}` must be an argument of {name}, which has "
                f"{', '.join(known) or 'none'}. Received {value!r}: "
                + (f"the nearest is `{near}`." if near else "leave it out.")
            )
        annotation = getattr(parameters.get(argument), "annotation", _NOT_SAID)
        arguments[argument] = _argument(where, value, annotation, context)
    for argument, parameter in parameters.items():
        variadic = parameter.kind in _VARIADIC
        optional = variadic or parameter.default is not parameter.empty
        if optional or argument in arguments or argument in supplied:
            continue
        if argument not in context.given:
            raise ValueError(
                f"`{key}` needs the argument `{written(argument)}` of {name}. Received "
                f"{dict(described)!r}: add `{written(argument)}`, or choose another "
                "part."
            )
        arguments[argument] = context.given[argument]()
    return arguments


def _argument(key: str, value: object, annotation: object, context: Context) -> object:
    """A value, or the part that it describes."""
    context = dataclasses.replace(context, siblings=())
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return make(key, value, object, context)
    if isinstance(value, list):
        items = enumerate(value)
        made = [_argument(f"{key}[{i}]", x, _NOT_SAID, context) for i, x in items]
        return LATER if any(x is LATER for x in made) else made
    kinds = members(annotation)
    if isinstance(value, yaml_format.Secret):
        if value.value is None:
            raise ValueError(
                f"`{key}` needs a variable that is set. Received {str(value)!r}, which "
                "is not: set it, or pass `environment` to `load`."
            )
        return value.value
    if isinstance(value, str) and not _takes_text(kinds):
        is_path = ":" in value
        number = None if is_path else yaml_format.read(value, "An argument")
        if isinstance(number, int | float) and math.isfinite(number):
            value = number  # That a variable stood for.
        elif {float, int} & set(kinds) and not is_path:
            raise ValueError(f"`{key}` must be a number. Received {value!r}.")
        else:
            found = find(key, value, context.modules)
            is_class = isinstance(found, type)
            return make(key, value, object, context) if is_class else found
    # 1 means 1.0 as a hyperparameter, or where no integer is expected.
    hyperparameter = set(members(FloatLike)) <= set(kinds)
    takes_float = hyperparameter or (float in kinds and int not in kinds)
    return float(value) if type(value) is int and takes_float else value


def _takes_text(kinds: Sequence[object]) -> bool:
    texts = (str, _NOT_SAID, object, typing.Any)
    literal = any(typing.get_origin(x) is typing.Literal for x in kinds)
    return literal or any(x in texts for x in kinds if not isinstance(x, str))
