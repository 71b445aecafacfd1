"""Environment-variable interpolation in recipe values."""

import re
from collections.abc import Mapping


_REFERENCE = re.compile(
    r"\$\$\{"  # A literal `${`.
    r"|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-[^{}]*)?\}"
    r"|\$\{"  # What is neither.
)


def expand(key: str, text: str, environment: Mapping[str, str]) -> str:
    """A text with its variables replaced by their values.

        "${" NAME "}"             its value
        "${" NAME ":-" text "}"   its value, or the text if it is unset or empty
        "$${"                     the two characters "${"

    **Arguments:**

    - `key`: of the recipe, for messages.
    - `text`: what was written.
    - `environment`: the variables that there are.

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


def escape(text: str) -> str:
    """The text that `expand` turns into this one."""
    return text.replace("${", "$${")
