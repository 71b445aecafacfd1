"""Chat templates, rendered as `transformers` does."""

import datetime
import functools as ft
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import jinja2


def render(template: str, variables: Mapping[str, object]) -> str:
    """Renders a chat template in a sandbox."""
    return _compile(template).render(variables)


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

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[jinja2.ext.loopcontrols, Generation],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(template)


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


def _strftime_now(form):
    return datetime.datetime.now().strftime(form)
