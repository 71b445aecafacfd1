"""Optional packages, and the extras of `pip install 'grpojax[...]'` that bring them."""

import contextlib
import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any


EXTRAS = {
    "datasets": "hub",
    "huggingface_hub": "hub",
    "jsonschema": "json",
    "markdown_it": "reports",
    "math_verify": "math",
    "matplotlib": "reports",
    "orbax": "runs",
    "pyarrow": "hub",
    "reasoning_gym": "gym",
    "rich": "runs",
    "starlette": "serve",
    "uvicorn": "serve",
    "verifiers": "verifiers",
}
"""The extra of each package."""


class MissingExtraError(ModuleNotFoundError):
    """An optional package is not installed: which, and the extra that brings it."""


def require(package: str, what: str) -> None:
    """Checks that an optional package is there, without importing it.

    **Arguments:**

    - `package`: one of `EXTRAS`.
    - `what`: what needs it, in the words of whoever asked for it.

    **Raises:** `MissingExtraError`.
    """
    if importlib.util.find_spec(package) is None:
        raise _missing(package, what)


def optional(package: str, what: str) -> Any:
    """The module of an optional package; see `require`."""
    require(package, what)
    return importlib.import_module(package)


@contextlib.contextmanager
def named_extras(what: str) -> Iterator[None]:
    """Names the extra, in the error of an import inside that lacks one of `EXTRAS`."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS or isinstance(error, MissingExtraError):
            raise
        raise _missing(package, what) from error


def _missing(package: str, what: str) -> MissingExtraError:
    return MissingExtraError(
        f"{what} needs the package {package.replace('_', '-')}, which is not "
        f"installed. Install it with `pip install 'grpojax[{EXTRAS[package]}]'`.",
        name=package,
    )
