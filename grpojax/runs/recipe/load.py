"""Recipes as files: YAML to a value, and back.

A recipe is a frozen dataclass whose fields are `bool`, `int`, `float`, `str`, a
`Literal`, one of the `kinds`, one of these or `None`, or a section: a further such
dataclass. A key is a field's dotted name, `optimizer.learning_rate`.
"""

import dataclasses
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable, TypeVar

import yaml

from . import legacy
from .check import check, nearest
from .env_interpolation import escape
from .kinds import Arguments, Merge, Part, Weights


@runtime_checkable
class Section(Protocol):
    """A frozen dataclass: a recipe, or a part of one."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field]]


Recipe = TypeVar("Recipe", bound=Section)


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, for which `1e-4` is a number and a repeated key an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper, which quotes what `_Loader` would read as something else."""

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
    """A recipe: the defaults, overridden by a file and then by assignments.

    In texts `${NAME}` stands for a variable, `${NAME:-default}` for one that may be
    unset or empty, and `$${` for the two characters; where a number or a flag is
    expected, the result is read as YAML. A part that is written without a name keeps
    the one it has: `algorithm.surrogate.low=0.1` changes one argument.

    **Arguments:**

    - `defaults`: a recipe to start from.
    - `path`: a YAML file whose mappings are the recipe's sections.
    - `assignments`: `"section.key=value"` each, the value written as in YAML; later
        ones win.
    - `environment`: the variables; none by default.

    **Raises:** `ValueError` for an unknown key (naming the nearest known one), a value
    of the wrong type or an unknown variable; `FileNotFoundError` without the file.

    !!! example

        ```python
        recipe = load(Recipe(), "recipe.yaml", ["optimizer.learning_rate=1e-4"])
        ```
    """
    sources = [] if path is None else [_read(Path(path))]
    return _override(defaults, sources, assignments, environment)


def parse(defaults: Recipe, text: str) -> Recipe:
    """The recipe that `dump` wrote, of any version; see `load`."""
    values = _parse(text, "A recipe")
    return _override(defaults, [values if isinstance(values, Mapping) else {}], (), {})


def _override(
    defaults: Recipe,
    files: Sequence[Mapping],
    assignments: Sequence[str],
    environment: Mapping[str, str],
) -> Recipe:
    schema = dict(_schema(defaults))
    settings: dict[str, object] = {}
    for values in files:
        for name, value in _flatten(schema, values):
            settings[name] = _combined(defaults, schema, settings, name, value)
    for assignment in assignments:
        for name, value in _flatten(schema, _parse_assignment(assignment)):
            if schema.get(name) is Weights and isinstance(value, Mapping):
                value = Merge(value)
            settings[name] = _combined(defaults, schema, settings, name, value)
    legacy.translate_shapings(settings)
    # Only now: a variable in what a later assignment replaces need not be set.
    for name, value in settings.items():
        settings[name] = check(name, schema.get(name, object), value, environment)
    return _replace(defaults, settings)


def to_mapping(recipe: Section) -> dict[str, object]:
    """The whole recipe as nested mappings of plain values."""
    values: dict[str, object] = {}
    for field, value in vars(recipe).items():
        if isinstance(value, Section) and not _is_open(recipe, field):
            values[field] = to_mapping(value)
        elif _is_open(recipe, field):
            values |= dict(value) if isinstance(value, Mapping) else vars(value)
        else:
            values[field] = list(value) if isinstance(value, tuple) else value
    return values


def dump(recipe: Section) -> str:
    """The whole recipe as YAML, which `load` turns into an equal one."""
    values = _escaped(to_mapping(recipe))
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _escaped(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _escaped(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(inner) for inner in value]
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


def _schema(section: Section, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every key with its kind; of a section its fields, `Arguments` if it is open."""
    kinds = typing.get_type_hints(type(section))
    for field, value in vars(section).items():
        if _is_open(section, field):
            yield f"{prefix}*", Arguments
        elif isinstance(value, Section):
            yield prefix + field, tuple(vars(value))
            yield from _schema(value, f"{prefix}{field}.")
        else:
            yield prefix + field, kinds[field]


def _is_open(section: Section, field: str) -> bool:
    """Whether a field holds the keys of its section that have no field."""
    kind = typing.get_type_hints(type(section))[field]
    return kind is Arguments or Arguments in typing.get_args(kind)


def _flatten(
    schema: Mapping[str, object], values: Mapping, prefix: str = ""
) -> Iterator[tuple[str, object]]:
    """Dotted keys with their values, translated to today's."""
    for key, value in values.items():
        name, value = legacy.translate_key(f"{prefix}{key}", value)
        fields = schema.get(name)
        if name in schema and not prefix and "." in str(key):
            raise ValueError(
                f"A file writes a section once and indents its keys. Received `{key}:`"
                f" in one line: write `{str(key).split('.')[0]}:` and its keys below."
            )
        if isinstance(fields, tuple):
            if not isinstance(value, Mapping | None):
                first = next(iter(fields))
                raise ValueError(
                    f"`{name}` is a section with the keys {', '.join(fields)}. "
                    f"Received {value!r}: set one of its keys, as in {name}.{first}=..."
                )
            yield from _flatten(schema, value or {}, f"{name}.")
        elif name in schema or name in legacy.KEYS or f"{prefix}*" in schema:
            yield name, value
        else:
            keys = [known for known in schema if not known.endswith("*")]
            raise ValueError(
                f"`{name}` is not a key of this recipe. The nearest is "
                f"`{nearest(name, keys)}`; --print-config shows them all."
            )


def _combined(
    defaults: Section,
    schema: Mapping[str, object],
    settings: Mapping[str, object],
    name: str,
    value: object,
) -> object:
    """A value with what it keeps of the one before it."""
    before = settings.get(name, _default(defaults, name))
    if isinstance(value, Merge):
        return {**(before if isinstance(before, Mapping) else {}), **value}
    kind = schema.get(name, Part)
    is_part = kind is Part or Part in typing.get_args(kind)
    if is_part and isinstance(value, Mapping) and "name" not in value:
        named = {"name": before} if isinstance(before, str) else before
        if isinstance(named, Mapping):
            return {**named, **value}
    return value


def _default(section: object, name: str) -> object:
    for field in name.split("."):
        inner = vars(section) if isinstance(section, Section) else {}
        section = inner.get(field)
    return section


def _replace(
    section: Recipe, settings: Mapping[str, object], prefix: str = ""
) -> Recipe:
    """A copy of a section in which some keys have other values."""
    changes: dict[str, object] = {}
    for field, value in vars(section).items():
        name = prefix + field
        if _is_open(section, field):
            others = {
                key.removeprefix(prefix): value
                for key, value in settings.items()
                if key.startswith(prefix) and key.removeprefix(prefix) not in changes
            }
            fields = vars(section)
            others = {key: x for key, x in others.items() if key not in fields}
            changes[field] = _arguments(section, field, changes, others)
        elif isinstance(value, Section):
            changes[field] = _replace(value, settings, f"{name}.")
        else:
            changes[field] = settings.get(name, value)
    return dataclasses.replace(section, **changes)


def _arguments(
    section: Section, field: str, changes: Mapping[str, object], others: dict
) -> object:
    """The keys of an open section without a field; null stands for a default."""
    convert = vars(type(section)).get("convert")
    before = vars(section)[field]
    if convert is not None:
        return convert.__func__(before, changes, others)
    kept = dict(before) if isinstance(before, Mapping) else {}
    return {key: x for key, x in {**kept, **others}.items() if x is not None}
