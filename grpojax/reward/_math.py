"""A reward for mathematical answers, compared by the package math-verify."""

import importlib.util
from collections.abc import Callable, Mapping

from ._host import HostReward
from ._limit import InProcess


class _Verify:
    """Compares completions with the solutions of their prompts, in a worker process."""

    def __init__(self, solutions: Mapping[str, str]):
        self.solutions = dict(solutions)

    def __call__(
        self, prompts: list[str], completions: list[str]
    ) -> list[float | None]:
        rows = zip(prompts, completions, strict=True)
        return [self._verify(prompt, completion) for prompt, completion in rows]

    def _verify(self, prompt: str, completion: str) -> float | None:
        # The package is optional, and slow to import: only the worker does.
        from math_verify import (  # pyright: ignore[reportMissingImports]
            parse,
            verify,
        )

        if prompt not in self.solutions:
            raise LookupError(f"there is no solution for the prompt {prompt!r}")
        # Its own time limits are signals to the main thread; `InProcess` is ours.
        gold = parse(self.solutions[prompt], parsing_timeout=None)
        if not gold:
            return None
        answer = parse(completion, parsing_timeout=None)
        return float(verify(gold, answer, timeout_seconds=None))


def math_verify(
    decode: Callable[[list[int]], str],
    solutions: Mapping[str, str],
    *,
    name: str = "math_verify",
    seconds: float = 10.0,
    on_error: float = -1.0,
) -> HostReward:
    r"""A reward of 1 for an answer mathematically equal to the solution, else 0.

    The reward does not apply (`None`) to a row whose solution cannot be parsed. Each
    row is one call in a worker process, so a row on which sympy hangs fails alone.

    **Arguments:**

    - `decode`: token ids to text, such as `tokenizer.decode`.
    - `solutions`: from each prompt, as `decode` renders it, to its solution:
        `"$\\frac{1}{2}$"`, `"0.5"`.
    - `name`: of the component.
    - `seconds`: the time limit of one row.
    - `on_error`: the reward of a row that fails.

    **Returns:** the reward function.

    **Raises:** `ImportError` without the package math-verify.

    !!! example

        ```python
        prompt = lambda question: tokenizer.decode(tokenizer.encode(question))
        solutions = {prompt(row["question"]): row["answer"] for row in rows}
        reward = math_verify(tokenizer.decode, solutions)
        ```
    """
    if importlib.util.find_spec("math_verify") is None:
        raise ImportError(
            "reward.math_verify needs the package math-verify, which is not installed. "
            "Install it with `pip install 'grpojax[math]'`."
        )
    judge = InProcess(_Verify(solutions), seconds)
    return HostReward(judge, decode, name=name, batch_size=1, on_error=on_error)
