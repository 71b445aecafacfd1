"""Recipes: what a run is, as one value and one file.

A recipe is a frozen dataclass whose fields are `bool`, `int`, `float`, `str`, a
`Literal`, one of these or `None`, or a section: a further such dataclass. A key is a
field's full name, `optimizer.learning_rate`, and has one spelling.
"""

import dataclasses
import difflib
import math
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable, TypeVar

import yaml

from .env_interpolation import escape, expand


@runtime_checkable
class Section(Protocol):
    """A frozen dataclass: a recipe, or a part of one."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field]]


Recipe = TypeVar("Recipe", bound=Section)


class _Loader(yaml.SafeLoader):
    """YAML as PyYAML reads it, but `1e-4` is a number and no key comes twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that `_Loader` would take for numbers, or break into lines."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if _BREAK.search(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


# Line breaks to YAML 1.1, which PyYAML writes as they are unless they are in quotes.
_BREAK = re.compile("[\x85\u2028\u2029]")
_Dumper.add_representer(str, _Dumper.represent_str)

_EXPONENT = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+")
for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver(
        "tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789")
    )


def load(
    defaults: Recipe,
    path: str | os.PathLike[str] | None = None,
    assignments: Sequence[str] = (),
    environment: Mapping[str, str] = types.MappingProxyType({}),
) -> Recipe:
    """The defaults, changed by a file and then by assignments.

    Everything that is not said keeps its default; what is said is kept as it is, an
    explicit 0 included. In texts `${NAME}` stands for a variable, `${NAME:-default}`
    for one that may be unset or empty, and `$${` for the two characters; where a number
    or a flag is expected, what they make is read as YAML.

    **Arguments:**

    - `defaults`: a recipe to start from.
    - `path`: a YAML file whose mappings are the recipe's sections.
    - `assignments`: `"section.key=value"` each, the value written as in YAML; later
        ones win.
    - `environment`: the variables; none by default.

    **Raises:** `ValueError` for a key that the recipe has not (naming the nearest that
    it has), a value of the wrong type or an unknown variable; `FileNotFoundError` if
    there is no such file.

    !!! example

        ```python
        recipe = load(Recipe(), "recipe.yaml", ["optimizer.learning_rate=1e-4"])
        ```
    """
    said = [] if path is None else [_read(Path(path))]
    said += map(_parse_assignment, assignments)
    settings, kinds = {}, {}
    for values in said:
        for name, kind, value in _flatten(defaults, values, list(_names(defaults))):
            settings[name], kinds[name] = value, kind
    # Only now: a variable in what a later assignment replaces need not be set.
    for name, value in settings.items():
        settings[name] = _checked(name, kinds[name], value, environment)
    return _replace(defaults, settings)


def dump(recipe: Section) -> str:
    """The whole recipe as YAML, which `load` turns into an equal one."""
    values = _escaped(dataclasses.asdict(recipe))
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _escaped(value: object) -> object:
    if isinstance(value, dict):
        return {key: _escaped(inner) for key, inner in value.items()}
    return escape(value) if isinstance(value, str) else value


def _read(path: Path) -> Mapping[str, object]:
    if not path.is_file():
        raise FileNotFoundError(
            f"A recipe is a YAML file. There is none at {os.fspath(path)!r}: check the "
            "path."
        )
    values = _parse(path.read_text(encoding="utf-8"), os.fspath(path))
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ValueError(
            f"A recipe is a mapping of sections. {os.fspath(path)!r} holds "
            f"{values!r:.80}: write `section:` and indent its keys."
        )
    return values


def _parse(text: str, place: str) -> object:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{place} must be YAML. {error}") from None


def _parse_assignment(assignment: str) -> Mapping[str, object]:
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise ValueError(
            "An assignment is written section.key=value. Received "
            f"{assignment!r}: write what the key should be."
        )
    *sections, field = key.strip().split(".")
    values: dict[str, object] = {field: _parse(text, f"The value in {assignment!r}")}
    for section in reversed(sections):
        values = {section: values}
    return values


def _names(section: Section, prefix: str = "") -> Iterator[str]:
    """Every key below a section, sections themselves included."""
    for field, value in vars(section).items():
        yield prefix + field
        if isinstance(value, Section):
            yield from _names(value, f"{prefix}{field}.")


def _flatten(
    section: Section, values: Mapping, names: list[str], prefix: str = ""
) -> Iterator[tuple[str, object, object]]:
    """Yields full names, what they may be, and values."""
    kinds = typing.get_type_hints(type(section))
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name in names and key not in kinds:
            raise ValueError(
                f"A file writes a section once and indents its keys. Received `{name}:`"
                f" in one line: write `{key.split('.')[0]}:` and its keys below."
            )
        if key not in kinds:
            nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"`{name}` is not a key of this recipe. The nearest is `{nearest}`; "
                "--print-config shows them all."
            )
        inner = vars(section)[key]
        if not isinstance(inner, Section):
            yield name, kinds[key], value
        elif isinstance(value, Mapping | None):
            yield from _flatten(inner, value or {}, names, f"{name}.")
        else:
            raise ValueError(
                f"`{name}` is a section with the keys {', '.join(vars(inner))}. "
                f"Received {value!r}: set one of its keys, as in "
                f"{name}.{next(iter(vars(inner)))}=..."
            )


def _replace(
    section: Recipe, settings: Mapping[str, object], prefix: str = ""
) -> Recipe:
    """A copy of a section in which some keys have other values."""
    changes = {}
    for field, value in vars(section).items():
        name = prefix + field
        if isinstance(value, Section):
            changes[field] = _replace(value, settings, f"{name}.")
        else:
            changes[field] = settings.get(name, value)
    return dataclasses.replace(section, **changes)


_KINDS: dict[object, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a finite number",
    str: "a text",
    types.NoneType: "null",
}


def _checked(
    name: str, kind: object, value: object, environment: Mapping[str, str]
) -> object:
    """A value as the type says, or a `ValueError` that says what was expected."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    kinds = typing.get_args(kind) if union else (kind,)
    if isinstance(value, str):
        expanded = expand(name, value, environment)
        if expanded != value and set(kinds) <= _KINDS.keys() - {str}:
            value = _parse(expanded, f"The value of `{name}`")
        else:
            value = expanded
    for allowed in kinds:
        if allowed is float:
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if math.isfinite(value):
                return float(value)
        elif type(value) is allowed or value in typing.get_args(allowed):
            return value
    expected = " or ".join(map(_describe, kinds))
    hint = ": put it in quotes" if str in kinds else ""
    raise ValueError(f"`{name}` must be {expected}. Received {value!r}{hint}.")


def _describe(kind: object) -> str:
    if kind in _KINDS:
        return _KINDS[kind]
    return "one of " + ", ".join(map(repr, typing.get_args(kind)))
