"""Parts from their descriptions in a recipe: a name, and arguments.

    "drop_truncated"
    {name: Clip, low: 0.2, high: 0.28}
    {name: KL, coefficient: 0.04, estimator: k2}
    {name: my_package.rewards:Brief, most: 20}

A name is one that a module of the library exports, or `package.module:object`. It
stands for a class or a function that is called with the arguments; a function without
arguments that fits its place, such as a shaping, is taken as it is.
"""

import importlib
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, ModuleType

from .check import nearest


Given = Mapping[str, Callable[[], object]]
"""Arguments that the recipe itself provides where a part asks for them, by name."""


def names(modules: Sequence[ModuleType]) -> list[str]:
    """The callables that modules export."""
    return [
        name
        for module in modules
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and typing.get_origin(value) is None
    ]


def find(key: str, name: str, modules: Sequence[ModuleType]) -> object:
    """The object that a name stands for.

    **Arguments:**

    - `key`: of the recipe, for messages.
    - `name`: exported by one of the modules, or `package.module:object`.
    - `modules`: where names are looked up, in this order.

    **Raises:** `ValueError` if there is none, with the nearest name that there is.
    """
    path, colon, attribute = name.partition(":")
    if colon:
        return _imported(key, path, attribute)
    for module in modules:
        if name in names([module]):
            return vars(module)[name]
    where = " or ".join(module.__name__ for module in modules)
    raise ValueError(
        f"`{key}` must be a name that {where} exports, or `package.module:object`. "
        f"Received {name!r}: the nearest is {nearest(name, names(modules))!r}."
    )


def _imported(key: str, path: str, attribute: str) -> object:
    try:
        found: object = importlib.import_module(path)
    except ModuleNotFoundError as error:
        # A module that exists and lacks another one is no misspelt name.
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise
        found = None
    for name in attribute.split("."):
        found = None if found is None else vars(found).get(name)
    if found is None:
        raise ValueError(
            f"`{key}` must lead to an object, `package.module:object`. Received "
            f"{path}:{attribute}: there is no `{attribute}` in a module `{path}`."
        )
    return found


def make(
    key: str,
    part: object,
    modules: Sequence[ModuleType],
    *,
    arity: int | None = None,
    given: Given = MappingProxyType({}),
    call: bool = True,
) -> typing.Any:
    """A part from its description.

    **Arguments:**

    - `key`: of the recipe, for messages.
    - `part`: its name, or a mapping with its name and its arguments.
    - `modules`: where names are looked up.
    - `arity`: with how many arguments the part itself will be called; a function that
        can be is taken as it is, if no arguments are described.
    - `given`: further arguments, by the name of a parameter that has none.
    - `call`: `False` checks names and arguments, and calls nothing.

    **Returns:** the part; `None` if nothing is called.

    **Raises:** `ValueError` for an unknown name or argument (with the nearest one), a
    missing argument, and what the part itself refuses, all with the key.
    """
    name, described = _split(key, part)
    target = find(key, name, modules)
    if not isinstance(target, type) and not described:
        if not callable(target):
            return target  # A value of the user's module.
        if not inspect.isroutine(target) or _binds(target, arity):
            return target
    assert callable(target)
    arguments = _arguments(key, name, target, described, modules, given, call)
    if not call:
        return None
    try:
        return target(**arguments)
    except (ValueError, TypeError) as error:
        raise ValueError(f"`{key}` is refused. {error}") from error


def _split(key: str, part: object) -> tuple[str, dict[str, object]]:
    if isinstance(part, str):
        return part, {}
    if isinstance(part, Mapping) and isinstance(part.get("name"), str):
        arguments = {name: value for name, value in part.items() if name != "name"}
        return str(part["name"]), arguments
    raise ValueError(
        f"`{key}` must be the name of a part, or a mapping with `name` and its "
        f"arguments. Received {part!r}."
    )


def _binds(target: Callable, arity: int | None) -> bool:
    if arity is None:
        return False
    try:
        inspect.signature(target).bind(*[None] * arity)
    except (TypeError, ValueError):
        return False
    return True


def _arguments(
    key: str,
    name: str,
    target: Callable,
    described: Mapping[str, object],
    modules: Sequence[ModuleType],
    given: Given,
    call: bool,
) -> dict[str, object]:
    """The arguments of a call, parts among them made."""
    parameters = inspect.signature(target).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    arguments = {}
    for argument, value in described.items():
        if argument not in parameters and not open_ended:
            known = ", ".join(parameters) or "none"
            near = nearest(argument, parameters) if parameters else ""
            raise ValueError(
                f"`{key}.{argument}` must be an argument of {name}, which has {known}. "
                f"Received {value!r}"
                + (f": the nearest is `{near}`." if near else ": leave it out.")
            )
        arguments[argument] = _argument(
            f"{key}.{argument}", value, parameters.get(argument), modules, given, call
        )
    for argument, parameter in parameters.items():
        if argument in arguments or parameter.kind in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        ):
            continue
        if argument in given and parameter.default is parameter.empty:
            arguments[argument] = given[argument]() if call else None
        elif parameter.default is parameter.empty:
            raise ValueError(
                f"`{key}` needs the argument `{argument}` of {name}. Received "
                f"{dict(described)!r}: add `{argument}`."
            )
    return arguments


def _argument(
    key: str,
    value: object,
    parameter: inspect.Parameter | None,
    modules: Sequence[ModuleType],
    given: Given,
    call: bool,
) -> object:
    """A value, or the part that it describes."""
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return make(key, value, modules, given=given, call=call)
    if isinstance(value, str) and parameter is not None and not _takes_text(parameter):
        found = find(key, value, modules)
        return found() if isinstance(found, type) else found
    return value


def _takes_text(parameter: inspect.Parameter) -> bool:
    kind = parameter.annotation
    kinds = (kind, *typing.get_args(kind))
    texts = (str, inspect.Parameter.empty, object, typing.Any)
    literal = any(typing.get_origin(x) is typing.Literal for x in kinds)
    return literal or any(x in texts for x in kinds if not isinstance(x, str))
