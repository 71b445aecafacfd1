"""Checks of constructor arguments: each error is one sentence that names the field."""

import inspect


def check_parts(owner: str, **parts: object) -> None:
    """Checks that parts are instances or functions that can be called.

    A class, of which the `()` was forgotten, would only fail deep inside a trace.

    **Arguments:**

    - `owner`: the class that takes the parts, as it is called: `"Algorithm"`.
    - `parts`: by field; a tuple holds several, and `None` stands for none.

    **Raises:** `TypeError` for a class, or for anything else that cannot be called.

    !!! example

        ```python
        def __check_init__(self):
            check_parts("Algorithm", advantage=self.advantage, select=self.select)
        ```
    """
    import equinox as eqx  # Here: `grpojax --help` checks numbers, and has no JAX.

    for field, part in parts.items():
        if isinstance(part, tuple):
            check_parts(owner, **{f"{field}[{i}]": x for i, x in enumerate(part)})
        elif isinstance(part, type) and issubclass(part, eqx.Module):
            raise TypeError(
                f"`{owner}.{field}` must be an instance. Received the class "
                f"`{part.__name__}`: write `{_call(part)}`."
            )
        elif part is not None and not callable(part):
            raise TypeError(
                f"`{owner}.{field}` must be callable. Received {part!r}: pass a "
                "function, or an instance of one of the library's classes."
            )


def check_at_least(owner: str, minimum: int | float, **values: object) -> None:
    """Checks hyperparameters that are Python numbers; arrays may be traced.

    **Arguments:**

    - `owner`: the class or function that takes them, as it is called.
    - `minimum`: the smallest valid value.
    - `values`: by name; anything but an `int` or a `float` is not checked.

    **Raises:** `ValueError` naming the hyperparameter.
    """
    for name, value in values.items():
        if isinstance(value, (int, float)) and not value >= minimum:
            raise ValueError(
                f"`{owner}.{name}` must be at least {minimum}. Received {value}."
            )


def _call(part: type) -> str:
    """How a class is instantiated: `Name()`, or `Name(...)` if it needs arguments."""
    try:
        inspect.signature(part).bind()
    except (TypeError, ValueError):
        return f"{part.__name__}(...)"
    return f"{part.__name__}()"
