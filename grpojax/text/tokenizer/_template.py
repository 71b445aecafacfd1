"""Chat templates, rendered as `transformers` does, within limits."""

import datetime
import functools as ft
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, TYPE_CHECKING


if TYPE_CHECKING:
    import jinja2


MOST_ITERATIONS = 1_000_000
"""Iterations of all loops of one conversation: a template that exceeds them hangs."""

MOST_CHARACTERS = 10_000_000
"""Of a text that a template builds."""

MOST_SECONDS = 20.0
"""Of one conversation."""


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
    """Counts the iterations and the calls of macros in one rendering, and its time."""
    count, start = 0, time.monotonic()

    def tick() -> str:
        nonlocal count
        count += 1
        if count > MOST_ITERATIONS:
            raise _TooMuch(f"its loops have not ended after {MOST_ITERATIONS:,} steps")
        if time.monotonic() - start > MOST_SECONDS:
            raise _TooMuch(f"it has not ended after {MOST_SECONDS:.0f} seconds")
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

        def call(self, context, function, /, *given, **named):
            owner = getattr(function, "__self__", None)
            _check_arguments(owner, *given, *named.values())
            return super().call(context, function, *given, **named)

        def wrap_str_format(self, value):
            wrapped = super().wrap_str_format(value)
            if wrapped is not None:
                _check_widths(value.__self__)
            return wrapped

    environment = Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[jinja2.ext.loopcontrols, Generation],
    )
    environment.filters["tojson"] = _to_json
    filters = environment.filters
    environment.filters = {name: _limited(name, x) for name, x in filters.items()}
    environment.globals |= {"raise_exception": _raise_exception, "_join": _join}
    tree = environment.parse(template)
    # Every iteration counts: a sandbox limits what is called, and not how often.
    for loop in tree.find_all((jinja2.nodes.For, jinja2.nodes.Macro)):
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


def _limited(name: str, filter: Callable) -> Callable:
    """A filter whose arguments are checked."""

    # Jinja reads from a filter what else it is to be given, before the value.
    skipped = int(hasattr(filter, "jinja_pass_arg"))

    @ft.wraps(filter)
    def limited(*given, **named):
        _check_arguments(*given[skipped:], *named.values())
        if name == "format":
            _check_widths(given[0])
        return filter(*given, **named)

    return limited


def _check_arguments(value: object, *given: object) -> None:
    """Checks that a text's method, or a filter, makes nothing too large of a value."""
    size = lambda x: len(x) if isinstance(x, str | bytes | list | tuple) else 1
    widths = [abs(x) for x in given if isinstance(x, int)]
    # A number may be a width; and each character may be replaced by another text.
    factor = max([1, *widths, *map(size, given)])
    if size(value) * factor > 10 * MOST_CHARACTERS:
        raise _TooMuch("the result of a call would be too large")


def _check_widths(text: object) -> None:
    """Checks that a format has no number that would be too large a width."""
    if isinstance(text, str) and re.search(r"[0-9]{6}", text):
        raise _TooMuch("the width of a format would be too large")


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
