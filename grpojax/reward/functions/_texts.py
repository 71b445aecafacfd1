"""Rewards that look at the text of a completion."""

import dataclasses
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..._extras import require
from ..host import Messages, text_of


Completions = Sequence[str | Messages]

_FENCED = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)


def last_block(text: str) -> str:
    """The last fenced code block of a Markdown text; the whole text without one."""
    blocks = _FENCED.findall(text)
    return blocks[-1] if blocks else text


def check_pattern(owner: str, pattern: str) -> None:
    """Checks a regular expression.

    **Raises:** `ValueError` with its error.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"`{owner}` must be a regular expression of Python. Received {pattern!r}: "
            f"{error}."
        ) from None


@dataclasses.dataclass(frozen=True)
class Regex:
    r"""A reward of 1 for a completion in which a regular expression is found, else 0.

    A pattern that backtracks without end can only be stopped in another process:
    `InProcess(Regex(pattern), 5.0)`.

    **Fields:**

    - `pattern`: as of `re.search`; `(?s)` at its begin lets `.` match a line break.

    **Raises:** `ValueError` for what is no pattern.

    !!! example

        ```python
        thinks = Regex(r"(?s)^<think>.*</think>")
        reward = HostReward(thinks, tokenizer.decode, name="thinks")
        ```
    """

    pattern: str

    def __post_init__(self):
        check_pattern("Regex.pattern", self.pattern)

    def __call__(self, completions: Completions) -> list[float]:
        pattern = re.compile(self.pattern)
        return [float(pattern.search(text_of(x)) is not None) for x in completions]


@dataclasses.dataclass(frozen=True)
class ExactMatch:
    r"""A reward of 1 for a completion that equals the row's answer, else 0.

    It does not apply (`None`) to a row without an answer.

    **Fields:**

    - `column`: of the answers: texts or numbers, or lists of them, of which one is to
        be matched.
    - `pattern`: a regular expression whose last match in the completion is compared,
        its first group if it has one; the whole completion when `None`.
    - `normalize`: whether case, spaces and punctuation at the ends do not count.

    **Raises:** `ValueError` for what is no pattern.

    !!! example

        ```python
        right = ExactMatch("city", pattern=r"<answer>(.*?)</answer>")
        reward = HostReward(right, tokenizer.decode, name="right")
        ```
    """

    column: str = "answer"
    pattern: str | None = None
    normalize: bool = True

    def __post_init__(self):
        if self.pattern is not None:
            check_pattern("ExactMatch.pattern", self.pattern)

    @property
    def required_columns(self) -> tuple[str, ...]:
        """The column of the answers."""
        return (self.column,)

    def __call__(self, completions: Completions, **columns: Sequence) -> list:
        answers = columns[self.column]
        rows = zip(completions, answers, strict=True)
        return [self._compare(text_of(said), answer) for said, answer in rows]

    def _compare(self, text: str, answer: object) -> float | None:
        several = isinstance(answer, Iterable) and not isinstance(answer, str)
        answers: Any = answer if several else [answer]
        known = [str(x) for x in answers if x is not None]
        if not known:
            return None
        found = [text]
        if self.pattern is not None:
            found = [x[x.re.groups > 0] for x in re.finditer(self.pattern, text)][-1:]
        read = _normalized if self.normalize else str
        return float(any(read(x or "") in map(read, known) for x in found))


def _normalized(text: str) -> str:
    """A text without case, and without spaces and punctuation at its ends."""
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return text.strip(" .,;:!?'\"*`()[]{}")


@dataclasses.dataclass(frozen=True, eq=False)
class JSONSchema:
    """A reward of 1 for JSON that satisfies a schema, else 0.

    The JSON is the last fenced code block of the completion, or all of it.

    **Fields:**

    - `schema`: as the package `jsonschema` reads it, which is needed.

    **Raises:** `ImportError` without the package; `ValueError` for an invalid schema.

    !!! example

        ```python
        shaped = JSONSchema({"type": "object", "required": ["name", "age"]})
        reward = HostReward(shaped, tokenizer.decode, name="shaped")
        ```
    """

    schema: Mapping[str, Any]

    def __post_init__(self):
        require("jsonschema", "reward.JSONSchema")
        from jsonschema import (  # pyright: ignore[reportMissingImports]
            exceptions,
            validators,
        )

        kind: Any = validators.validator_for(self.schema)
        try:
            kind.check_schema(self.schema)
        except exceptions.SchemaError as error:
            raise ValueError(
                "`JSONSchema.schema` must be a JSON schema. Received one that is "
                f"invalid at {error.json_path}: {error.message}."
            ) from None

    def __call__(self, completions: Completions) -> list[float]:
        # The package is optional.
        from jsonschema import (  # pyright: ignore[reportMissingImports]
            validators,
        )

        validator = validators.validator_for(self.schema)(self.schema)

        def check(text: str) -> bool:
            try:
                value = json.loads(last_block(text), parse_constant=_refuse_constant)
                return validator.is_valid(value)
            except (ValueError, RecursionError):
                return False

        return [float(check(text_of(x))) for x in completions]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
