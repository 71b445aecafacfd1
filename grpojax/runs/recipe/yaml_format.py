"""YAML as recipes are written in it: strict, with exponents and `${VARIABLES}`."""

import re
from collections.abc import Mapping
from typing import Any

import yaml


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


def read(text: str, place: str) -> object:
    """The value of a text; `place` is where it is from, for the `ValueError`."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{place} must be YAML. {error}") from None


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


def escape(value: Any) -> Any:
    """A value whose texts `expand` turns into those of this one."""
    if isinstance(value, Mapping):
        return {key: escape(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [escape(inner) for inner in value]
    return value.replace("${", "$${") if isinstance(value, str) else value
