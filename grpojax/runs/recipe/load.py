"""Recipes as files: YAML to a value, and back.

A recipe is a frozen dataclass whose fields are `bool`, `int`, `float`, `str`, a
`Literal`, one of the `kinds`, one of these or `None`, or a section: a further such
dataclass. A key is a field's dotted name, `optimizer.learning_rate`.
"""

import dataclasses
import os
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable, TypeVar

from . import legacy
from .values import yaml_format
from .values.check import check, members, nearest, plain
from .values.env_interpolation import escape
from .values.kinds import Arguments, Merge, Part, Weights


@runtime_checkable
class Section(Protocol):
    """A frozen dataclass: a recipe, or a part of one."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field]]


Recipe = TypeVar("Recipe", bound=Section)


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
    values = yaml_format.read(text, "A recipe")
    return _override(defaults, [values if isinstance(values, Mapping) else {}], (), {})


def _override(
    defaults: Recipe,
    files: Sequence[Mapping],
    assignments: Sequence[str],
    environment: Mapping[str, str],
) -> Recipe:
    schema = dict(_schema(defaults))
    settings: dict[str, object] = {}
    sources = [list(_flatten(schema, legacy.translate_file(x))) for x in files]
    for assignment in assignments:
        found = _flatten(schema, _parse_assignment(assignment))
        sources.append([(name, _merged(schema, name, x)) for name, x in found])
    for source in sources:
        legacy.forget_replaced(settings, [name for name, _ in source])
        # What is merged comes after what it is merged with, wherever it is written.
        for name, value in sorted(source, key=lambda item: isinstance(item[1], Merge)):
            settings[name] = _combined(defaults, schema, settings, name, value)
    # Only now: a variable in what a later assignment replaces need not be set.
    kinds = schema | legacy.KINDS
    for name, value in settings.items():
        if name in kinds:
            settings[name] = check(name, kinds[name], value, environment)
    shapings = settings.get(legacy.SHAPINGS, _default(defaults, legacy.SHAPINGS))
    legacy.translate_shapings(settings, shapings)
    return _replace(defaults, settings, environment)


def _merged(schema: Mapping[str, object], name: str, value: object) -> object:
    """Weights of an assignment are added to those that there are."""
    if schema.get(name) is Weights and isinstance(value, Mapping):
        return Merge(value)
    return value


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
    return yaml_format.write(
        {key: _escaped(value) for key, value in to_mapping(recipe).items()}
    )


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
    values = yaml_format.read(path.read_text(encoding="utf-8"), os.fspath(path))
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ValueError(
            f"A recipe is a mapping of sections. {os.fspath(path)!r} holds "
            f"{values!r:.80}: write `section:` and indent its keys."
        )
    return values


def _parse_assignment(assignment: str) -> Mapping[str, object]:
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise ValueError(
            "An assignment is written section.key=value. Received "
            f"{assignment!r}: write what the key should be."
        )
    *sections, field = key.strip().split(".")
    value = yaml_format.read(text, f"The value in {assignment!r}")
    values: dict[str, object] = {field: value}
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
        if not prefix and str(key).partition(".")[0] in schema and "." in str(key):
            raise ValueError(
                f"A file writes a section once and indents its keys. Received `{key}:`"
                f" in one line: write `{str(key).split('.')[0]}:` and its keys below."
            )
        name, value = legacy.translate_key(f"{prefix}{key}", value)
        fields = schema.get(name)
        if isinstance(fields, tuple):
            if not isinstance(value, Mapping | None):
                first = next(iter(fields))
                raise ValueError(
                    f"`{name}` is a section with the keys {', '.join(fields)}. "
                    f"Received {value!r}: set one of its keys, as in {name}.{first}=..."
                )
            yield from _flatten(schema, value or {}, f"{name}.")
        elif name in schema or name in legacy.KINDS or f"{prefix}*" in schema:
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
    is_part = Part in members(schema.get(name, Part))
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
    section: Recipe,
    settings: Mapping[str, object],
    environment: Mapping[str, str],
    prefix: str = "",
) -> Recipe:
    """A copy of a section in which some keys have other values."""
    changes: dict[str, object] = {}
    own = [field for field in vars(section) if not _is_open(section, field)]
    for field in own:
        value, name = vars(section)[field], prefix + field
        if isinstance(value, Section):
            changes[field] = _replace(value, settings, environment, f"{name}.")
        else:
            changes[field] = settings.get(name, value)
    for field in vars(section).keys() - set(own):
        others = {
            key.removeprefix(prefix): value
            for key, value in settings.items()
            if key.startswith(prefix) and key.removeprefix(prefix) not in own
        }
        changes[field] = _open(section, field, changes, others, environment, prefix)
    return dataclasses.replace(section, **changes)


def _open(
    section: Section,
    field: str,
    changes: Mapping[str, object],
    others: Mapping[str, object],
    environment: Mapping[str, str],
    prefix: str,
) -> object:
    """The keys of an open section without a field; null selects the default."""
    convert = vars(type(section)).get("convert")
    before = vars(section)[field]
    if convert is not None:
        return convert.__func__(before, changes, others, environment)
    kept = dict(before) if isinstance(before, Mapping) else {}
    values = {x: plain(prefix + x, y, environment) for x, y in others.items()}
    return {key: x for key, x in {**kept, **values}.items() if x is not None}
