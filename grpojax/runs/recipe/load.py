"""Recipes as files: YAML to a value, and back.

A recipe is a frozen dataclass whose fields are `bool`, `int`, `float`, `str`, a
`Literal`, one of the `kinds`, one of these or `None`, or a section: a further such
dataclass. A key is a field's dotted name, `optimizer.learning_rate`.
"""

import dataclasses
import os
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..io.tables import flatten
from . import yaml_format
from .kinds import check, Choices, fields_of, members, Part, unknown_key, Weights
from .legacy import Merge, translate


Recipe = TypeVar("Recipe")


def load(
    defaults: Recipe,
    path: str | os.PathLike[str] | None = None,
    assignments: Sequence[str] = (),
    environment: Mapping[str, str] = types.MappingProxyType({}),
) -> Recipe:
    """A recipe: the defaults, overridden by a file and then by assignments.

    In texts `${NAME}` is replaced by a variable, `${NAME:-default}` by one that may be
    unset or empty, and `$${` for the two characters; where a number or a flag is
    expected, the result is read as YAML. A part that is written without a name keeps
    the one it has: `algorithm.surrogate.low=0.1` changes one argument.

    **Arguments:**

    - `defaults`: a recipe to start from.
    - `path`: a YAML file whose mappings are the recipe's sections.
    - `assignments`: `"section.key=value"` each, the value written as in YAML, except
        that a text is taken as it is, `#` and spaces included; later ones win.
    - `environment`: the variables; none by default.

    **Raises:** `ValueError` for an unknown key (naming the nearest known one), a value
    of the wrong type or an unknown variable; `FileNotFoundError` without the file.

    !!! example

        ```python
        recipe = load(Recipe(), "recipe.yaml", ["optimizer.learning_rate=1e-4"])
        ```
    """
    sources = [] if path is None else [_read(Path(path))]
    sources += map(_parse_assignment, assignments)
    return _override(defaults, sources, environment)


def parse(defaults: Recipe, text: str) -> Recipe:
    """The recipe that `dump` wrote, of any version; see `load`."""
    values = yaml_format.read(text, "A recipe")
    return _override(defaults, [values if isinstance(values, Mapping) else {}], {})


def override(section: Recipe, values: Mapping[str, object], key: str) -> Recipe:
    """A section with other values, checked as those of a recipe.

    **Arguments:**

    - `section`: the values that are kept.
    - `values`: nested mappings of the others; variables in them have been replaced.
    - `key`: of the section, for messages; empty for the whole recipe.

    **Raises:** `ValueError` as `load`.
    """
    prefix = f"{key}." if key else ""
    inner = fields_of(section) if key else _dotted(to_mapping(section))
    known = [f"{prefix}{name}" for name in inner]
    return _replace(section, _merge(section, {}, values, prefix), {}, known, prefix)


def to_mapping(recipe: object) -> dict[str, object]:
    """The whole recipe as nested mappings of plain values."""
    values: dict[str, object] = {}
    for field, value in vars(recipe).items():
        if field in fields_of(recipe):
            is_section = dataclasses.is_dataclass(value)
            values[field] = to_mapping(value) if is_section else value
            if isinstance(value, tuple):
                values[field] = list(value)
        else:
            values |= value if isinstance(value, Mapping) else vars(value)
    return values


def dump(recipe: object) -> str:
    """The whole recipe as YAML, which `load` turns into an equal one."""
    return yaml_format.write(yaml_format.escape(to_mapping(recipe)))


def _read(path: Path) -> Mapping[str, object]:
    if not path.is_file():
        raise FileNotFoundError(
            f"A recipe is a YAML file. There is none at {os.fspath(path)!r}: check the "
            "path."
        )
    values = yaml_format.read(_text_of(path), os.fspath(path))
    if not isinstance(values, Mapping | None):
        raise ValueError(
            f"A recipe is a mapping of sections. {os.fspath(path)!r} holds "
            f"{values!r:.80}: write `section:` and indent its keys."
        )
    for key in values or {}:
        section, dot, _ = str(key).partition(".")
        if dot:
            raise ValueError(
                f"A file writes a section once and indents its keys. Received `{key}:`"
                f" in one line: write `{section}:` and its keys below."
            )
    return values or {}


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"A recipe is text in UTF-8. {os.fspath(path)!r} is not ({error}): save it "
            "as UTF-8, or name another file."
        ) from None


def _parse_assignment(assignment: str) -> Mapping[str, object]:
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise ValueError(
            "An assignment is written section.key=value. Received "
            f"{assignment!r}: write what the key should be."
        )
    # `key = value` has spaces around the sign; others belong to the value.
    text = text.strip() if key != key.rstrip() else text
    value: Any = yaml_format.read_argument(text, f"The value in {assignment!r:.200}")
    for field in reversed(key.strip().split(".")):
        # Weights that are assigned are added to those that there are.
        value = {field: Merge(value) if isinstance(value, dict) else value}
    return value


def _override(
    defaults: Recipe, sources: Sequence[Mapping], environment: Mapping[str, str]
) -> Recipe:
    changes: dict[str, Any] = {}
    for source in sources:
        changes = _merge(defaults, changes, translate(source, environment))
    # Variables only now: one in what a later source replaces need not be set.
    known = list(_dotted(to_mapping(defaults)))
    return _replace(defaults, changes, environment, known)


def _merge(
    section: object, changes: Mapping, source: Mapping, prefix: str = ""
) -> dict[str, Any]:
    """Changes of a section with those of a later source."""
    fields, merged = fields_of(section), dict(changes)
    for key, value in source.items():
        name, default = f"{prefix}{key}", vars(section).get(key)
        if not dataclasses.is_dataclass(fields.get(key)):
            before = merged.get(key, default if key in fields else None)
            merged[str(key)] = _combined(fields.get(key, Part), before, value)
            continue
        if not isinstance(value, Mapping | None):
            keys = list(fields_of(default))
            raise ValueError(
                f"`{name}` is a section with the keys {', '.join(keys)}. Received "
                f"{value!r}: set one of its keys, as in {name}.{keys[0]}=..."
            )
        merged[key] = _merge(default, merged.get(key, {}), value or {}, f"{name}.")
    return merged


def _combined(kind: object, before: Any, value: Any) -> object:
    """A value with what it keeps of the one before it."""
    if callable(value):
        return value(before)
    if Choices in members(kind) and isinstance(value, Merge):
        return {**(before if isinstance(before, Mapping) else {}), **flatten(value)}
    if Part in members(kind) and isinstance(value, Mapping) and "name" not in value:
        before = {"name": before} if isinstance(before, str) else before
    elif kind is not Weights or not isinstance(value, Merge):
        return value
    return {**before, **value} if isinstance(before, Mapping) else value


def _dotted(values: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")


def _replace(
    section: Any,
    changes: Mapping[str, Any],
    environment: Mapping[str, str],
    known: Sequence[str],
    prefix: str = "",
) -> Any:
    """A copy of a section in which some keys have other values."""
    fields, values, others = fields_of(section), {}, {}
    for key, value in changes.items():
        name, kind = f"{prefix}{key}", fields.get(key)
        if kind is None:
            others[key] = value
        elif dataclasses.is_dataclass(kind):
            inner = vars(section)[key]
            values[key] = _replace(inner, value, environment, known, f"{name}.")
        else:
            values[key] = check(name, kind, value, environment)
    is_open = fields.keys() != vars(section).keys()
    if others and not is_open:
        raise unknown_key(f"{prefix}{next(iter(others))}", known, "this recipe")
    section = dataclasses.replace(section, **values)
    return section.with_arguments(others, environment) if is_open else section
