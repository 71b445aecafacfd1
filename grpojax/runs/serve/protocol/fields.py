"""Values of a request's body, each of one type and in one range."""

from collections.abc import Mapping
from typing import Any


class RefusedError(ValueError):
    """A request that cannot be answered; its message is for the client.

    **Fields:**

    - `status`: of the response.
    - `param`: the key of the body that is at fault, if it is one.
    """

    def __init__(self, message: str, param: str | None = None, status: int = 400):
        super().__init__(message)
        self.param, self.status = param, status


def refuse(key: str, words: str, value: object) -> RefusedError:
    """What is raised for a value that does not fit."""
    return RefusedError(f"`{key}` must be {words}. Received {value!r:.80}.", key)


class Reader:
    """Values of a body, each of one type and in one range."""

    def __init__(self, body: Mapping[str, Any]):
        self.body = body

    def number(self, key: str, default: float, low: int, high: int) -> float:
        value = self.body.get(key, default)
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not low <= value <= high:
            raise refuse(key, f"a number between {low} and {high}", value)
        return float(value)

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        value = self.body.get(key, default)
        good = isinstance(value, int) and not isinstance(value, bool)
        if not good or not low <= value <= high:
            raise refuse(key, f"an integer between {low} and {high}", value)
        return value

    def flag(self, key: str) -> bool:
        value = self.body.get(key, False)
        if not isinstance(value, bool):
            raise refuse(key, "true or false", value)
        return value

    def text(self, key: str, default: str) -> str:
        value = self.body.get(key, default)
        if not isinstance(value, str):
            raise refuse(key, "a string", value)
        return checked(key, value)

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.body.get(key, {})
        if not isinstance(value, dict):
            raise refuse(key, "an object", value)
        return value


def checked(key: str, text: str) -> str:
    """The text, if it is one: JSON can spell halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise refuse(key, "valid Unicode", text) from None
    return text
