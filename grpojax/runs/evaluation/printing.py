"""Console output of an evaluation."""

import textwrap

from rich.console import Console

from ...text import AbstractTokenizer
from ..io.run_directory import DEFAULT_EVALUATION as DEFAULT
from ..io.terminal import printable
from .result import EvaluationResult
from .statistics import accuracies_by_task


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
    name: str = DEFAULT,
) -> None:
    """Prints an accuracy or a mean reward, its interval, and some completions.

    **Arguments:**

    - `result`: of the evaluation.
    - `tokenizer`: decodes completions; without one none are shown.
    - `console`: where to print.
    - `when`: words after "held-out accuracy".
    - `name`: of the problems.
    """
    name = "held-out" if name == DEFAULT else name
    if result.measures:
        what, measure = next(iter(result.measures.items()))
        style = ".1%" if what == "accuracy" else ".4g"
        value, low, high = (
            format(x, style) for x in (measure.value, *measure.interval)
        )
        failed = "".join(f"; {x} failed on {y:,}" for x, y in result.failed.items())
        cut = f"{result.clipped_ratio:.1%}{failed}"
        echo(
            console,
            f"\n{name} {what} {when}: {value}  "
            f"(95% interval {low} to {high}, n = {result.count:,}; length "
            f"{result.mean_length:.1f}, truncated {cut})\n",
            style="bold",
        )
        for task, found in accuracies_by_task(result.to_json()).items():
            low, high = found["ci95"]
            echo(console, f"  {task} {found['accuracy']:.1%} ({low:.1%} to {high:.1%})")
    if tokenizer is None:
        return
    for index in range(min(_SHOWN, len(result.prompts))):
        prompt = tokenizer.decode(result.prompts[index].tolist()).strip()
        tokens = result.tokens[index, 0, : result.total_lengths[index, 0]]
        answer = tokenizer.decode(tokens.tolist()).strip()
        verdict = f"reward {0 if result.total is None else result.total[index, 0]:g}"
        if result.correct is not None and result.judged[index]:
            verdict = "right" if result.correct[index, 0] else "wrong"
        gold = result.gold[index]
        echo(console, textwrap.indent(prompt[-_PROMPT_TAIL:], "  "), style="dim")
        echo(console, textwrap.indent(answer or "(nothing)", "  > "))
        known = "" if gold is None else f": the answer is {gold}"
        echo(console, f"  {verdict}{known}\n")
