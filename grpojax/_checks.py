"""Checks of constructor arguments: each error is one sentence that names the field."""

import inspect
import math


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
    check_numbers(owner, **values)


def check_counts(owner: str, minimum: int, **values: object) -> None:
    """Checks that values are integers from a minimum on, or `None`.

    **Raises:** `ValueError` naming the value.
    """
    for name, value in values.items():
        if value is None or (type(value) is int and value >= minimum):
            continue
        what = (
            "must be an integer, and at least"
            if type(value) is not int
            else ("must be at least")
        )
        raise ValueError(f"`{owner}.{name}` {what} {minimum}. Received {value!r}.")


def check_numbers(owner: str, **values: object) -> None:
    """Checks that hyperparameters are numbers, or arrays, which may be traced.

    **Raises:** `TypeError` for a text, a collection or a class, and `ValueError` for
    NaN, naming the hyperparameter.
    """
    for name, value in values.items():
        if isinstance(value, str | bytes | list | tuple | dict | type):
            raise TypeError(
                f"`{owner}.{name}` must be a number. Received {value!r:.80}."
            )
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"`{owner}.{name}` must be a number. Received nan.")


_KINDS = {
    "env": ("AbstractEnvironment", "an environment, such as `GSM8K(...)`"),
    "optimizer": ("GradientTransformation", "one such as `optax.adamw(1e-5)`"),
    "algorithm": ("Algorithm", "one such as `algorithms.grpo()`"),
    "rollout": ("RolloutConfig", "`RolloutConfig(prompts=16, group=8)`"),
    "update": ("UpdateConfig", "one such as `UpdateConfig(epochs=2)`"),
    "policy": ("AbstractPolicy", "one such as `models.load(path)` returns"),
}


def check_instances(owner: str, **parts: object) -> None:
    """Checks that the parts of a step are of their classes, known by name.

    **Arguments:**

    - `owner`: what takes the parts, as it is called: `"TrainStep"`.
    - `parts`: by field; a `key` must be one of `jax.random.key`.

    **Raises:** `TypeError` that names the field, and what to pass.
    """
    for field, part in parts.items():
        if field in _KINDS:
            kind, remedy = _KINDS[field]
            holds = any(base.__name__ == kind for base in type(part).__mro__)
        elif field == "key":
            kind, remedy = "Key", "`jax.random.key(0)`"
            holds = "key<" in str(getattr(part, "dtype", ""))
        else:
            continue
        if not holds:
            raise TypeError(
                f"`{owner}.{field}` must be of type `{kind}`. Received {part!r:.80}: "
                f"pass {remedy}."
            )


def _call(part: type) -> str:
    """How a class is instantiated: `Name()`, or `Name(...)` if it needs arguments."""
    try:
        inspect.signature(part).bind()
    except (TypeError, ValueError):
        return f"{part.__name__}(...)"
    return f"{part.__name__}()"
