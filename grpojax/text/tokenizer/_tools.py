"""JSON schemas of Python functions, as `get_json_schema` of `transformers` has them."""

import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Callable
from typing import Any, NoReturn


Schema = dict[str, Any]

_SCALARS = {
    int: "integer",
    float: "number",
    str: "string",
    bool: "boolean",
    type(None): "null",
}
_TYPES = {
    **{kind: {"type": name} for kind, name in _SCALARS.items()},
    list: {"type": "array"},
    tuple: {"type": "array"},
    dict: {"type": "object"},
    Any: {},
}
# A docstring in Google's style: a description, and blocks of arguments and returns.
_DESCRIPTION = re.compile(r"^(.*?)[\n\s]*(Args:|Returns:|Raises:|\Z)", re.DOTALL)
_ARGUMENTS = re.compile(r"\n\s*Args:\n(.*?)[\n\s]*(Returns:|Raises:|\Z)", re.DOTALL)
_ARGUMENT = re.compile(
    r"(?:^|\n)([ \t]*)(\w+):\s*(.*?)\s*(?=\n(?!\1[ \t])[ \t]*\w+:|\Z)", re.DOTALL
)
_RETURNS = re.compile(r"\n\s*Returns:\n\s*(.*?)[\n\s]*(Raises:|\Z)", re.DOTALL)
_CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*$", re.IGNORECASE)


def json_schemas(tools: object) -> object:
    """The tools of a chat with each function as its schema; others stay as they are.

    **Raises:** `ValueError` for a function without type hints or descriptions.
    """
    if not isinstance(tools, list | tuple):
        return tools
    return [_schema(tool) if callable(tool) else tool for tool in tools]


def _schema(tool: Callable) -> Schema:
    if not (inspect.isfunction(tool) or inspect.ismethod(tool)):
        _refuse(tool, "a JSON schema or a function", "pass one")
    text = (inspect.getdoc(tool) or "").strip()
    if not text:
        _refuse(tool, "described in its docstring", "write one")
    listed = _ARGUMENTS.search(text)
    lines = [line for line in (listed[1] if listed else "").split("\n") if line.strip()]
    described = {
        name: re.sub(r"\s*\n+\s*", " ", words.strip())
        for _, name, words in _ARGUMENT.findall("\n".join(lines))
    }
    parameters, returns = _parameters(tool)
    for name, schema in parameters["properties"].items():
        if name not in described:
            _refuse(tool, f"described in its docstring, with {name!r}", "write `Args:`")
        words = described[name]
        choices = _CHOICES.search(words)
        if choices:
            listed_choices = json.loads(choices[1])
            strip = lambda x: x.strip() if isinstance(x, str) else x
            schema["enum"] = [strip(x) for x in listed_choices]
            words = words[: choices.start()].strip()
        schema["description"] = words
    description = _DESCRIPTION.search(text)
    function = {
        "name": tool.__name__,
        "description": description[1].strip() if description else None,
        "parameters": parameters,
    }
    if returns is not None:
        found = _RETURNS.search(text)
        words = {"description": found[1].strip()} if found else {}
        function["return"] = returns | words
    return {"type": "function", "function": function}


def _parameters(tool: Callable) -> tuple[Schema, Schema | None]:
    """The schema of a function's arguments, and of what it returns if it has one."""
    hints, arguments = typing.get_type_hints(tool), inspect.signature(tool).parameters
    first = next(iter(arguments), None)
    skipped = first if first in ("self", "cls") and first not in hints else None
    names = [name for name in arguments if name != skipped]
    missing = [name for name in names if name not in hints]
    if missing:
        _refuse(tool, f"a function with type hints, of {missing[0]!r} too", "add it")
    properties = {}
    for name in hints:
        if name in names:
            try:
                properties[name] = _hint(hints[name])
            except TypeError as error:
                _refuse(
                    tool,
                    f"a function with hints of JSON types ({error})",
                    "or pass a schema",
                )
    required = [
        name for name in names if arguments[name].default is inspect.Parameter.empty
    ]
    schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    try:
        return schema, _hint(hints["return"]) if "return" in hints else None
    except TypeError:
        return schema, None


def _hint(hint: Any) -> Schema:
    """The schema of a type hint; a `TypeError` if it has none."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is None and isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _values([member.value for member in hint])
    if origin is None and hint in _TYPES:
        return dict(_TYPES[hint])
    if origin in (typing.Union, types.UnionType):
        return _union(inner)
    if origin is typing.Literal:
        return _values(list(inner))
    if origin is list:
        return {"type": "array", "items": _hint(inner[0])}
    if origin is tuple and len(inner) > 1 and ... not in inner:
        return {"type": "array", "prefixItems": [_hint(x) for x in inner]}
    if origin is dict and len(inner) == 2:
        return {"type": "object", "additionalProperties": _hint(inner[1])}
    raise TypeError(f"{hint!r} has no schema")


def _union(inner: tuple[Any, ...]) -> Schema:
    every = [_hint(x) for x in inner if x is not type(None)]
    if len(every) == 1:
        schema = every[0]
    elif all(x.keys() == {"type"} and isinstance(x["type"], str) for x in every):
        names = sorted({x["type"] for x in every})
        schema: Schema = {"type": names[0] if len(names) == 1 else names}
    else:
        schema = {"anyOf": every}
    return schema | ({"nullable": True} if type(None) in inner else {})


def _values(values: list) -> Schema:
    """One of several values."""
    if not values or any(type(value) not in _SCALARS for value in values):
        raise TypeError(f"{values!r} are not numbers, texts, booleans or None")
    names = list(dict.fromkeys(_SCALARS[type(value)] for value in values))
    return {"type": names[0] if len(names) == 1 else names, "enum": values}


def _refuse(tool: object, invariant: str, remedy: str) -> NoReturn:
    raise ValueError(
        f"A tool of a chat is {invariant}. Received {tool!r:.80}: {remedy}."
    )
