"""YAML as recipes are written in it: strict, with exponents and `${VARIABLES}`."""

import re
from collections.abc import Hashable, Mapping
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, for which `1e-4` is a number and a repeated key an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False):
        found = set()
        for inner, _ in node.value:
            key = self.construct_object(inner, deep=True)
            known = isinstance(key, Hashable) and key in found
            found |= {key} if isinstance(key, Hashable) else set()
            if known:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper, which quotes what `_Loader` would read as something else."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if _BREAK.search(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    def ignore_aliases(self, data: object) -> bool:
        del data  # A recipe that names one part twice has it twice.
        return True


# Line breaks to YAML 1.1, which PyYAML writes as they are unless they are in quotes.
_BREAK = re.compile("[\x85\u2028\u2029]")
_Dumper.add_representer(str, _Dumper.represent_str)

_EXPONENT = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+")
for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver(
        "tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789")
    )


_MOST_VALUES, _MOST_LEVELS, _MOST_CHARACTERS = 10_000, 64, 1_000_000
_NULLS = ("null", "Null", "NULL", "~")


def read(text: str, place: str) -> object:
    """The value of a text; `place` is where it is from, for the `ValueError`."""
    try:
        _check_size(text)
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{place} must be YAML. {error}") from None
    except (ValueError, OverflowError) as error:
        # A number of thousands of digits, or a date that no calendar has.
        raise ValueError(f"{place} must be values of YAML. {error}") from None


def read_argument(text: str, place: str) -> object:
    """The value of a text that a command line has: YAML, but a text as it is written.

    Where YAML would read a text that is not in quotes, every character counts: spaces,
    line breaks, and a `#`, which begins a comment only in files.

    **Raises:** `ValueError` for what is not YAML, and for a comment after what is not a
    text.
    """
    value = read(text, place)
    if not text or text.startswith("!"):
        return value
    node = yaml.compose(text, Loader=_Loader)
    is_plain = node is None or isinstance(node, yaml.ScalarNode) and node.style is None
    is_null = value is None and text.strip() in _NULLS
    if is_plain and (isinstance(value, str) or (value is None and not is_null)):
        return text
    if _has_comment(text):
        if is_plain:
            return text
        raise ValueError(
            f"{place} must be one value. In YAML a comment begins at its `#`: put a "
            "text in quotes, or leave the comment out."
        )
    return value


def _has_comment(text: str) -> bool:
    rest = list(text)
    for token in yaml.scan(text, Loader=_Loader):
        if isinstance(token, yaml.ScalarToken):
            start, end = token.start_mark.index, token.end_mark.index
            rest[start:end] = " " * (end - start)
    return "#" in rest


def _check_size(text: str) -> None:
    """Checks what a few lines of YAML can stand for, before anything is built of it.

    An alias counts as often as what it stands for.
    """
    too_much = len(text) > _MOST_CHARACTERS
    sizes: dict[str | None, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    count = 0
    for event in () if too_much else yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"the alias *{event.anchor} contains itself")
            count += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            sizes[anchor] = count - before
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            sizes[event.anchor] = 1
        too_much = count > _MOST_VALUES or len(open_nodes) > _MOST_LEVELS
        if too_much:
            break
    if too_much:
        raise ValueError(
            f"It may have {_MOST_CHARACTERS:,} characters, {_MOST_VALUES:,} values and "
            f"{_MOST_LEVELS} levels. Received more: point to a file of data instead."
        )


def write(values: Mapping[str, object]) -> str:
    """The text whose value this is."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


_REFERENCE = re.compile(
    r"\$\$\{"  # A literal `${`.
    r"|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-[^{}]*)?\}"
    r"|\$\{"  # What is neither.
)


def expand(key: str, text: str, environment: Mapping[str, str]) -> str:
    """The text of a key with its variables replaced by their values.

        "${" NAME "}"             its value
        "${" NAME ":-" text "}"   its value, or the text if it is unset or empty
        "$${"                     the two characters "${"

    **Raises:** `ValueError` for a variable that is not there, or another `${`.
    """

    def value(match: re.Match[str]) -> str:
        if match.group() == "$${":
            return "${"
        name, default = match.group("name", "default")
        if name is None:
            raise ValueError(
                f"`{key}`: `${{` begins ${{NAME}} or ${{NAME:-default}}. Received "
                f"{text!r}: close the brace, or write $${{ for the two characters."
            )
        if default is not None:
            return environment.get(name) or default.removeprefix(":-")
        if name not in environment:
            raise ValueError(
                f"`{key}` needs the variable {name}, which is not set. Received "
                f"{text!r}: set it, or write ${{{name}:-default}}."
            )
        return environment[name]

    return _REFERENCE.sub(value, text)


class Secret(str):
    """A text `${NAME}`, which records keep; `value` is that of the variable, if set."""

    value: str | None = None


def secret(key: str, text: str, environment: Mapping[str, str]) -> Secret:
    """The reference of a key to a variable whose value no record may hold.

    **Raises:** `ValueError` for anything but one variable; it does not show the text.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None or match["name"] is None:
        raise ValueError(
            f"`{key}` must be a variable, ${{NAME}}, since a recipe is copied into its "
            "runs. Received another text, which is not shown: set a variable to it."
        )
    found = Secret(text)
    default = (match["default"] or "").removeprefix(":-")
    found.value = environment.get(match["name"]) or default or None
    return found


def escape(value: Any) -> Any:
    """A value whose texts `expand` turns into those of this one."""
    if isinstance(value, Mapping):
        return {key: escape(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [escape(inner) for inner in value]
    if isinstance(value, Secret):
        return str(value)
    return value.replace("${", "$${") if isinstance(value, str) else value
