"""Objects by the names that a recipe gives them."""

import importlib
import typing
from collections.abc import Sequence
from types import ModuleType

from ..kinds import nearest


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
    """The object that modules export by a name, or that of `package.module:object`.

    **Raises:** `ValueError` with the recipe's key if there is none, and the nearest.
    """
    path, colon, attribute = name.partition(":")
    if colon:
        found = imported(path, attribute)
        if found is not None:
            return found
        raise ValueError(
            f"`{key}` must lead to an object, `package.module:object`. Received "
            f"{name}: there is no `{attribute}` in a module `{path}`."
        )
    for module in modules:
        if name in names([module]):
            return vars(module)[name]
    where = " or ".join(module.__name__ for module in modules)
    raise ValueError(
        f"`{key}` must be a name that {where} exports, or `package.module:object`. "
        f"Received {name!r}: the nearest is {nearest(name, names(modules))!r}."
    )


def imported(path: str, attribute: str) -> object | None:
    """The object of a module, or `None` if there is no such module or object.

    The attribute is dotted, if it is one of an object of the module.

    **Raises:** `ModuleNotFoundError` for a module that exists and lacks another one.
    """
    if not path or path.startswith("."):
        return None
    try:
        found: object = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise
        return None
    for name in attribute.split("."):
        found = None if found is None else vars(found).get(name)
    return found
