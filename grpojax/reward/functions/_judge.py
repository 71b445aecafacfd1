"""A reward given by a language model behind an OpenAI-compatible endpoint."""

import dataclasses
import functools as ft
import hashlib
import http.client
import json
import os
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.meta
import jinja2.sandbox

from ...calls import Calls, PermanentError
from ..host import text_of
from ._cache import Cache
from ._texts import check_pattern, Completions


_OWN = ("prompt", "completion")
_PATH = "/chat/completions"
_LONGEST_ANSWER = 8 * 2**20  # Bytes.
_RETRIED = (408, 409, 425, 429)  # And 500 and above.


class Secret:
    """A text that is in no description, representation or file."""

    def __init__(self, value: str):
        self.value = value

    def __repr__(self) -> str:
        return "Secret"


class _BusyError(Exception):
    """An answer of a server that may be another one the next time."""

    def __init__(self, message: str, retry_after: float):
        super().__init__(message)
        self.retry_after = retry_after


@dataclasses.dataclass(frozen=True, eq=False)
class Judge:
    r"""A score for each completion by a model behind an OpenAI-compatible endpoint.

    Each row is a request of its own, `POST url/chat/completions`, many at a time. One
    that gets no answer, or the status 408, 409, 425, 429 or 500 and above, is repeated;
    a row fails if all of its requests do, or if its answer holds no score.

    **Fields:**

    - `url`: of the endpoint, such as `"http://localhost:8000/v1"`.
    - `model`: its name at the endpoint.
    - `template`: the user's message, a jinja template over `prompt`, `completion` and
        the columns of the row.
    - `score`: a regular expression whose last match in the answer is the score, its
        first group if it has one.
    - `parse`: a function from the answer to the score, or `None` if none applies, in
        place of `score`.
    - `system`: the system's message; none when empty.
    - `options`: further fields of the request, such as `max_tokens`.
    - `api_key`: sent as `Authorization: Bearer ...`. It is kept out of records. In a
        recipe it is a variable, `${NAME}`.
    - `cache`: a file in which answers are kept, by request, so that none is asked for
        twice, by a resumed run either.
    - `seconds`: the time limit of a request.
    - `concurrency`, `retries`, `backoff`: see `Calls`.

    **Raises:** `ValueError` for a URL, template, pattern or number that is none.

    !!! example

        ```python
        helpful = Judge(
            "http://localhost:8000/v1",
            "Qwen/Qwen3-8B",
            "Question: {{ question }}\nAnswer: {{ completion }}\n"
            "How helpful is the answer, from 0 to 10? End with `Score: n`.",
            score=r"Score: *(\d+)",
            cache="out/judge.jsonl",
        )
        reward = HostReward(helpful, tokenizer.decode, name="helpful")
        ```
    """

    url: str
    model: str
    template: str
    score: str = r"-?\d+(?:\.\d+)?"
    parse: Callable[[str], float | None] | None = None
    system: str = ""
    options: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: {"temperature": 0.0}
    )
    api_key: str | Secret | None = dataclasses.field(default=None, repr=False)
    cache: str | os.PathLike[str] | None = None
    seconds: float = 60.0
    concurrency: int = 32
    retries: int = 5
    backoff: float = 1.0
    _cache: Cache = dataclasses.field(init=False, repr=False)
    _template: jinja2.Template = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                "`Judge.url` must be that of an endpoint, http://HOST:PORT/v1. "
                f"Received {self.url!r}."
            )
        if self.parse is None:
            check_pattern("Judge.score", self.score)
        self.calls  # noqa: B018  # Raises for what is out of range.
        try:
            template = _environment().from_string(self.template)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(
                f"`Judge.template` must be a jinja template. Received one with an "
                f"error in line {error.lineno}: {error.message}."
            ) from None
        for name, value in (("_template", template), ("_cache", Cache(self.cache))):
            object.__setattr__(self, name, value)
        if isinstance(self.api_key, str):
            object.__setattr__(self, "api_key", Secret(self.api_key))

    @property
    def calls(self) -> Calls:
        """One call for each row."""
        return Calls(
            batch_size=1,
            concurrency=self.concurrency,
            seconds=self.seconds,
            retries=self.retries,
            backoff=self.backoff,
        )

    @property
    def required_columns(self) -> tuple[str, ...]:
        """The columns that the template names."""
        names = jinja2.meta.find_undeclared_variables(
            _environment().parse(self.template)
        )
        return tuple(sorted(names - {*_OWN}))

    def dry_call(
        self, prompts: Completions, completions: Completions, **columns: Sequence
    ) -> None:
        """Renders the requests, and asks nobody: the server may not be there yet."""
        self._requests(prompts, completions, columns)

    def __call__(
        self, prompts: Completions, completions: Completions, **columns: Sequence
    ) -> list[float | None]:
        requests = self._requests(prompts, completions, columns)
        return [self._judge(request) for request in requests]

    def _requests(
        self, prompts: Completions, completions: Completions, columns: Mapping
    ) -> list[bytes]:
        """The body of the request about each row."""
        rows, system = [], []
        if self.system:
            system = [{"role": "system", "content": self.system}]
        for row, (prompt, said) in enumerate(zip(prompts, completions, strict=True)):
            known = {name: values[row] for name, values in columns.items()}
            known |= {"prompt": text_of(prompt), "completion": text_of(said)}
            user = {"role": "user", "content": self._template.render(known)}
            body = {"model": self.model, "messages": [*system, user], **self.options}
            rows.append(json.dumps(body, sort_keys=True).encode())
        return rows

    def _judge(self, request: bytes) -> float | None:
        key = hashlib.sha256(self.url.encode() + b"\n" + request).hexdigest()
        answer = self._cache.get(key)
        if answer is None:
            answer = self._ask(request)
            score = self._read(answer)
            self._cache.add(key, answer)
            return score
        return self._read(answer)

    def _read(self, answer: str) -> float | None:
        """The score in an answer."""
        if self.parse is not None:
            try:
                return self.parse(answer)
            except Exception as error:  # A user's function may raise anything.
                raise PermanentError(
                    f"`parse` fails on the answer {answer!r:.200}. "
                    f"{type(error).__name__}: {error}"
                ) from error
        found = [x[x.re.groups > 0] for x in re.finditer(self.score, answer)]
        try:
            return float(found[-1])
        except (IndexError, TypeError, ValueError):
            raise PermanentError(
                f"there is no score {self.score!r} in the answer {answer!r:.200}"
            ) from None

    def _ask(self, request: bytes) -> str:
        """The content of the server's answer."""
        status, reason, wait, body = self._post(request)
        if status >= 500 or status in _RETRIED:
            raise _BusyError(f"the judge answers {status} {reason}", wait)
        text = body.decode(errors="replace")
        if status != 200:
            raise PermanentError(f"the judge answers {status} {reason}: {text:.300}")
        try:
            answer = json.loads(text)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            answer = None
        if not isinstance(answer, str):
            raise PermanentError(f"the judge answers no completion, but {text:.300}")
        return answer

    def _post(self, request: bytes) -> tuple[int, str, float, bytes]:
        """Status, reason, seconds to wait and body of the response to a request."""
        url = urllib.parse.urlsplit(self.url)
        secure = url.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(url.hostname or "", url.port, timeout=self.seconds)
        path = url.path.rstrip("/")
        path = path if path.endswith(_PATH) else path + _PATH
        path += f"?{url.query}" if url.query else ""
        headers = {"Content-Type": "application/json"}
        if isinstance(self.api_key, Secret):
            headers["Authorization"] = f"Bearer {self.api_key.value}"
        try:
            connection.request("POST", path, request, headers)
            response = connection.getresponse()
            body = response.read(_LONGEST_ANSWER)
        finally:
            connection.close()
        wait = response.getheader("Retry-After", "")
        wait = float(wait) if wait.isdigit() else 0.0
        return response.status, response.reason, wait, body


@ft.cache
def _environment() -> jinja2.Environment:
    return jinja2.sandbox.SandboxedEnvironment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
