"""Objects that a recipe's section `data` names."""

import difflib
import importlib
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from . import answers
from .answers import AbstractAnswer


def find_function(key: str, name: str) -> Callable[..., Any]:
    """The function that `package.module:function` names.

    **Raises:** `ValueError` with the key if there is none.
    """
    found = _imported(key, name)
    if not callable(found):
        raise ValueError(f"`{key}` must be a function. Received {name}: {found!r:.80}.")
    return found


def make_answer(part: object, key: str = "data.answer") -> AbstractAnswer:
    """The kind of answers that a recipe describes.

    **Arguments:**

    - `part`: the name of a class in `envs.answers`, a mapping with its `name` and its
        arguments, or `package.module:object`.
    - `key`: of the recipe, for messages.

    **Raises:** `ValueError` with the key for an unknown name or argument.
    """
    if isinstance(part, AbstractAnswer):
        return part
    given = {"name": part} if isinstance(part, str) else part
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise ValueError(
            f"`{key}` is the name of a kind of answers, or a mapping with its `name` "
            f"and arguments. Received {part!r}."
        )
    name = given["name"]
    made = _imported(key, name) if ":" in name else _kind(key, name)
    arguments = {x: y for x, y in given.items() if x != "name"}
    for argument, kind in get_type_hints(made).items() if callable(made) else ():
        if kind is AbstractAnswer and argument in arguments:
            value = arguments[argument]
            arguments[argument] = make_answer(value, f"{key}.{argument}")
    if callable(made) and (isinstance(made, type) or arguments):
        try:
            made = made(**arguments)
        except (TypeError, ValueError) as error:
            raise ValueError(f"`{key}` is refused. {error}") from error
    if not isinstance(made, AbstractAnswer):
        raise ValueError(
            f"`{key}` must be a kind of answers, an `envs.answers.AbstractAnswer`. "
            f"Received {part!r}, which is {made!r:.80}."
        )
    return made


def _kind(key: str, name: str) -> Any:
    known = {
        name: value
        for name, value in vars(answers).items()
        if isinstance(value, type)
        and issubclass(value, AbstractAnswer)
        and value is not AbstractAnswer
    }
    if name not in known:
        lower = {x.lower(): x for x in known}
        near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.0)
        raise ValueError(
            f"`{key}` must be one of {', '.join(known)}, or `package.module:object`. "
            f"Received {name!r}: the nearest is {lower[near[0]]!r}."
        )
    return known[name]


def _imported(key: str, name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        missing = getattr(error, "name", None) if isinstance(error, ImportError) else ""
        if missing and not f"{module}.".startswith(f"{missing}."):
            raise
        raise ValueError(
            f"`{key}` must lead to an object, `package.module:object`. Received "
            f"{name!r}: {error}."
        ) from None
    return found
