"""Some of the completions that were logged last."""

from ..document import Block, Heading, Paragraph, Verbatim
from ..read import Run


def last_completions(run: Run, *, limit: int = 2) -> list[Block]:
    """A prompt of the last logged step, with the first completions of its group."""
    if not run.completions:
        return []
    group = run.completions[-1]
    blocks: list[Block] = [
        Heading(2, "Completions of the last logged step"),
        Paragraph(f"Prompt, step {group.step}:"),
        Verbatim(group.prompt),
    ]
    for sample in group.samples[:limit]:
        numbers = [
            {True: "Correct", False: "Incorrect", None: "Completion"}[sample.correct]
        ]
        if sample.total is not None:
            numbers.append(f"reward {sample.total:.5g}")
        if sample.advantage is not None:
            numbers.append(f"advantage {sample.advantage:.5g}")
        blocks.append(Paragraph(f"{', '.join(numbers)}:"))
        blocks.append(Verbatim(sample.text or "(empty)"))
    return blocks
