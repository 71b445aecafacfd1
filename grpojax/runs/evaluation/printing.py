"""Console output of an evaluation."""

import textwrap

from rich.console import Console

from ...text import AbstractTokenizer
from ..io.terminal import printable
from .result import EvaluationResult


_SHOWN = 2  # Completions.
_PROMPT_TAIL = 400  # Characters.


def echo(console: Console, text: str, style: str = "") -> None:
    """Prints text verbatim: no markup in it, no line wrapped, and `printable`."""
    text = printable(text)
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def print_result(
    result: EvaluationResult,
    tokenizer: AbstractTokenizer | None,
    console: Console,
    when: str,
) -> None:
    """Prints an accuracy, its interval, and some completions.

    **Arguments:**

    - `result`: of the evaluation.
    - `tokenizer`: decodes completions; without one none are shown.
    - `console`: where to print.
    - `when`: words after "held-out accuracy".
    """
    low, high = result.interval
    echo(
        console,
        f"\nheld-out accuracy {when}: {result.accuracy:.1%}  "
        f"(95% interval {low:.1%} to {high:.1%}, n = {result.count:,}; "
        f"length {result.mean_length:.1f}, truncated {result.clipped_ratio:.1%})\n",
        style="bold",
    )
    if tokenizer is None:
        return
    for index in range(min(_SHOWN, len(result.prompts))):
        prompt = tokenizer.decode(result.prompts[index].tolist()).strip()
        tokens = result.tokens[index, 0, : result.lengths[index, 0]]
        answer = tokenizer.decode(tokens.tolist()).strip()
        verdict = "right" if result.correct[index, 0] else "wrong"
        gold = result.gold[index]
        echo(console, textwrap.indent(prompt[-_PROMPT_TAIL:], "  "), style="dim")
        echo(console, textwrap.indent(answer or "(nothing)", "  > "))
        known = "" if gold is None else f": the answer is {gold}"
        echo(console, f"  {verdict}{known}\n")
