"""A reward for mathematical answers, compared by the package math-verify."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..._extras import require
from ...calls import InProcess
from ..host import HostReward, text_of
from ._texts import Completions


class _Verify:
    """Compares completions with the solutions of their rows, in a worker process."""

    def __init__(self, solutions: Mapping[str, str] | str):
        self.solutions = solutions

    @property
    def required_columns(self) -> tuple[str, ...]:
        """The column of the solutions, if they are in one."""
        return (self.solutions,) if isinstance(self.solutions, str) else ()

    def __call__(
        self, prompts: Completions, completions: Completions, **columns: Sequence
    ) -> list[float | None]:
        if isinstance(self.solutions, str):
            solutions = columns[self.solutions]
        else:
            solutions = [self._look_up(text_of(prompt)) for prompt in prompts]
        rows = zip(solutions, completions, strict=True)
        return [_verify(solution, text_of(said)) for solution, said in rows]

    def _look_up(self, prompt: str) -> str:
        assert isinstance(self.solutions, Mapping)
        if prompt not in self.solutions:
            raise LookupError(f"there is no solution for the prompt {prompt!r}")
        return self.solutions[prompt]


def _verify(solution: object, completion: str) -> float | None:
    # The package is optional, and slow to import: only the worker does.
    import math_verify  # pyright: ignore[reportMissingImports]

    package: Any = math_verify
    parse = functools.partial(package.parse, parsing_timeout=None)

    # A worked solution states its answer after the last `####`.
    text = "" if solution is None else str(solution).rpartition("####")[2].strip()
    if not text:
        return None
    # Its own time limits are signals to the main thread; `InProcess` is ours. A gold
    # answer such as "A" or "x + 1" is LaTeX without its delimiters.
    tries = (parse(x) for x in (text, f"\\boxed{{{text}}}"))
    gold = next(filter(None, tries), None)
    if gold is None:
        raise ValueError(f"math-verify cannot read the solution {text!r}")
    verify = functools.partial(package.verify, timeout_seconds=None)
    return float(verify(gold, parse(completion)))


def math_verify(
    decode: Callable[[list[int]], str],
    solutions: Mapping[str, str] | str,
    *,
    name: str = "math_verify",
    seconds: float = 10.0,
    on_error: float = -1.0,
) -> HostReward:
    r"""A reward of 1 for an answer mathematically equal to the solution, else 0.

    The reward does not apply (`None`) to a row without a solution, and fails on one
    whose solution math-verify cannot read. Each row is one call in a worker process, so
    a row on which sympy hangs fails alone.

    **Arguments:**

    - `decode`: token ids to text, such as `tokenizer.decode`.
    - `solutions`: the column of the solutions, such as `"$\\frac{1}{2}$"`, `"0.5"`,
        `"A"` or `"1 + 1 = 2 #### 2"`; or a mapping from each prompt, as `decode`
        renders it, to its solution.
    - `name`: of the component.
    - `seconds`: the time limit of one row.
    - `on_error`: the reward of a row that fails.

    **Returns:** the reward function.

    **Raises:** `ImportError` without the package math-verify.

    !!! example

        ```python
        reward = math_verify(tokenizer.decode, "solution")
        ```
    """
    require("math_verify", "reward.math_verify")
    if isinstance(solutions, Mapping):
        solutions = dict(solutions)
    judge = InProcess(_Verify(solutions), seconds)
    return HostReward(judge, decode, name=name, batch_size=1, on_error=on_error)
