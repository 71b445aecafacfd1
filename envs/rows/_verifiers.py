"""Rows of the environments of verifiers."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from grpojax._extras import optional

from .._prompts import check_choice
from ._settings import name_and_settings


VERIFIERS = "verifiers:"
"""Begins the source `verifiers:ENVIRONMENT?KEY=VALUE&KEY=VALUE`."""


def is_environment(source: str | os.PathLike[str]) -> bool:
    """Whether a source is an environment of verifiers."""
    return str(source).startswith(VERIFIERS)


def has_eval_rows(source: str) -> bool:
    """Whether an environment has rows to evaluate on besides those to train on."""
    env = _load(source)
    env.build_eval_dataset()
    return env.eval_dataset is not None


def rows_of(source: str, split: str) -> Iterator[Mapping[str, object]]:
    """The rows of a split, with the environment in a column `verifiers`."""
    check_choice("split", split, ("train", "test"))
    env = _load(source)
    rows = env.get_dataset() if split == "train" else env.get_eval_dataset()
    name, arguments = name_and_settings(source.removeprefix(VERIFIERS))
    origin = {"environment": name, "arguments": arguments}
    return ({**row, "verifiers": origin} for row in rows)


def _load(source: str) -> Any:
    verifiers = optional("verifiers", f"The source {source!r}")
    name, arguments = name_and_settings(source.removeprefix(VERIFIERS))
    try:
        env = verifiers.load_environment(name, **arguments)
    except Exception as error:  # Whatever a module of the user raises.
        raise ValueError(
            f"A source `{VERIFIERS}ENVIRONMENT?KEY=VALUE` names an installed "
            f"environment of verifiers, and its arguments. Received {source!r}: {error}"
        ) from error
    if not hasattr(env, "get_dataset"):
        raise ValueError(
            f"A source `{VERIFIERS}ENVIRONMENT` has rows and a rubric, as those of "
            f"verifiers 0.1 and 0.2 do. Received {source!r}, a {type(env).__name__} "
            "without `get_dataset`."
        )
    return env
