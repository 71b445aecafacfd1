"""Settings behind the name of a source: `NAME?KEY=VALUE&KEY=VALUE`."""

import urllib.parse
from typing import Any

import yaml


def name_and_settings(text: str) -> tuple[str, dict[str, Any]]:
    """A name, and its settings as YAML reads them: `"sums?terms=2"`, `{"terms": 2}`."""
    name, _, query = text.partition("?")
    given = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    return name, {key: yaml.safe_load(value) for key, value in given.items()}
