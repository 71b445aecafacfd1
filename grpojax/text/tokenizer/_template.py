"""Chat templates, rendered as `transformers` does, within limits."""

import datetime
import functools as ft
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TYPE_CHECKING


if TYPE_CHECKING:
    import jinja2


MOST_ITERATIONS = 1_000_000
"""Iterations of all loops of one conversation: a template that exceeds them hangs."""

MOST_CHARACTERS = 10_000_000
"""Of a text that a template builds."""


class TemplateRefusal(ValueError):
    """A chat template cannot be rendered; the message has the template's own words."""


class _TooMuch(Exception):
    """A limit is exceeded."""


def render(
    template: str, variables: Mapping[str, object], today: datetime.date | None
) -> str:
    """Renders a chat template in a sandbox.

    **Raises:** `TemplateRefusal` for whatever goes wrong in the template.
    """
    now = _clock(today)
    try:
        compiled = _compile(template)
        return compiled.render({"strftime_now": now, "_tick": _counter(), **variables})
    except Exception as error:  # It may call any method of what it is given.
        kind = type(error).__name__.lstrip("_")
        words = str(error) or "no message"
        if isinstance(error, RecursionError):
            words = "it calls itself without an end"
        raise TemplateRefusal(
            f"The chat template does not take this conversation. Received from it: "
            f"{words} ({kind}). Leave out what it refuses, such as data.system_prompt, "
            "or correct `chat_template` in the tokenizer's files."
        ) from error


def _counter() -> Callable[[], str]:
    """Counts the iterations of one rendering."""
    count = 0

    def tick() -> str:
        nonlocal count
        count += 1
        if count > MOST_ITERATIONS:
            raise _TooMuch(f"its loops have not ended after {MOST_ITERATIONS:,} steps")
        return ""

    return tick


# A data set renders one template thousands of times, and compiling costs milliseconds.
@ft.lru_cache(maxsize=16)
def _compile(template: str) -> "jinja2.Template":
    import jinja2
    import jinja2.ext
    import jinja2.nodes
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        # `{% generation %}` marks the assistant's text. It renders as its body: which
        # tokens are trained on is recorded by the sampler, not by the template.
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(("*", "**", "+", "%"))

        def call_binop(self, context, operator, left, right):
            _check_size(operator, left, right)
            return super().call_binop(context, operator, left, right)

    environment = Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[jinja2.ext.loopcontrols, Generation],
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise_exception, "_join": _join}
    tree = environment.parse(template)
    # Every iteration counts: a sandbox limits what is called, and not how often.
    for loop in tree.find_all(jinja2.nodes.For):
        tick = jinja2.nodes.Name("_tick", "load", lineno=loop.lineno)
        call = jinja2.nodes.Call(tick, [], [], None, None, lineno=loop.lineno)
        loop.body.insert(0, jinja2.nodes.Output([call], lineno=loop.lineno))
    for joined in tree.find_all(jinja2.nodes.Concat):
        join = jinja2.nodes.Name("_join", "load", lineno=joined.lineno)
        call = jinja2.nodes.Call(
            join, joined.nodes, [], None, None, lineno=joined.lineno
        )
        joined.nodes = [call]
    tree.set_environment(environment)
    code: Any = environment.compile(tree)
    return environment.from_string(template).from_code(
        environment, code, environment.make_globals(None)
    )


def _check_size(operator: str, left: object, right: object) -> None:
    """Checks that the result of an operator is of a size that a prompt may have."""
    sizes = [len(x) for x in (left, right) if isinstance(x, str | list | tuple)]
    numbers = [x for x in (left, right) if isinstance(x, int)]
    if operator == "+":
        too_much = sum(sizes) > MOST_CHARACTERS
    elif operator == "%":
        too_much = isinstance(left, str) and re.search(r"\*|[0-9]{6}", left) is not None
    elif operator == "*":
        too_much = any(x * y > MOST_CHARACTERS for x in sizes for y in numbers)
        too_much |= any(x.bit_length() > 1024 for x in numbers)
    else:
        too_much = any(x.bit_length() > 10 for x in numbers)
    if too_much:
        raise _TooMuch(f"the result of `{operator}` would be too large")


def _join(*parts: object) -> str:
    """`~`, which no sandbox intercepts."""
    texts = [str(part) for part in parts]
    if sum(map(len, texts)) > MOST_CHARACTERS:
        raise _TooMuch("the result of `~` would be too large")
    return "".join(texts)


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    # Jinja's built-in filter escapes HTML.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message):
    import jinja2

    raise jinja2.TemplateError(message)


def _clock(today: datetime.date | None) -> Callable[[str], str]:
    def strftime_now(form):
        now = datetime.datetime.now()
        if today is not None:
            now = datetime.datetime.combine(today, datetime.time())
        return now.strftime(form)

    return strftime_now
