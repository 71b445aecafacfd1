"""A replayed step as a page: a table of rows, and their tokens with the clipped."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from ..io.tables import markdown
from .replay import Replay


_CSS = """
body{font:14px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0}
td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}
.row{white-space:pre-wrap;font-family:ui-monospace,monospace;margin:.2rem 0 1rem}
.low{background:#bcd7ff}.high{background:#ffc9c0}.reply{color:#888}
"""


def lines(replay: Replay) -> str:
    """A step in a few lines of Markdown: whether it agrees, and what losses make."""
    agreement = replay.agreement
    steps = replay.step - replay.start
    begin = f"checkpoint of step {replay.start}" if replay.start else "initial state"
    parts = [
        f"step {replay.step}, reached from the {begin} "
        f"({steps} step{'' if steps == 1 else 's'} taken again)",
        *_verdicts(replay),
        "",
        *_losses(replay),
    ]
    if agreement.details:
        parts += ["", _details(agreement.details)]
    return "\n".join(parts)


def _verdicts(replay: Replay) -> list[str]:
    agreement = replay.agreement
    differing = {x: y for x, y in agreement.metrics.items() if y}
    if differing:
        step, names = next(iter(differing.items()))
        metrics = f"differ from step {step} on: {', '.join(names)}"
    else:
        metrics = f"equal, bit for bit, in {len(agreement.metrics)} steps"
    words = {True: "equal, bit for bit", False: "differ", None: "none were logged"}
    state = "no checkpoint after the step"
    if agreement.state is not None:
        state = f"differ: {', '.join(agreement.state)}" if agreement.state else ""
    return [
        f"- metrics: {metrics}",
        f"- completions: {words[agreement.completions]}",
        f"- parameters and optimizer state: {state or 'equal, bit for bit'}",
    ]


def _details(names: Sequence[str]) -> str:
    return (
        "The rows were taken apart by a program of its own, whose metrics differ by "
        f"rounding: {', '.join(names)}."
    )


def _losses(replay: Replay) -> list[str]:
    records: Any = {name: x.to_json() for name, x in replay.losses.items()}
    names = [*records["run"]["metrics"]]
    others = "gradient_cosine", "update_cosine", "update_norm"
    rows = [
        [
            name,
            *(_short(x["metrics"].get(key)) for key in names),
            *(_short(x[key]) for key in others),
        ]
        for name, x in records.items()
    ]
    heads = [*names, *(x.replace("_", " ") for x in others)]
    return [markdown(["loss of", *heads], rows)]


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def page(replay: Replay, rows: Sequence[Mapping[str, Any]]) -> str:
    """One self-contained HTML file about a step.

    **Arguments:**

    - `rows`: from `records.row_records`.
    """
    title = f"Step {replay.step}"
    body = [f"<h1>{title}</h1>", f"<pre>{html.escape(lines(replay))}</pre>"]
    body += ["<h2>Rows</h2>", _table(rows), "<h2>Tokens</h2>", _LEGEND]
    for prompt in sorted({row["prompt"] for row in rows}):
        of_prompt = [row for row in rows if row["prompt"] == prompt]
        text = of_prompt[0].get("prompt_text", "")
        body.append(f"<h3>Prompt {prompt}</h3><p class=row>{html.escape(text)}</p>")
        body += [_tokens(row) for row in of_prompt]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        f"<style>{_CSS}</style><body>{''.join(body)}</body></html>\n"
    )


_LEGEND = (
    "<p>A token whose ratio is outside the trust region on the side where it binds is "
    "<span class=low>below</span> or <span class=high>above</span> it, in any epoch; "
    "<span class=reply>what was not sampled</span> is a reply. The number on a token, "
    "if you point at it, is its ratio in the last epoch.</p>"
)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    heads = "row", "tokens", "reward", "advantage", "loss", "gradient", "cosine", "clip"
    found = [f"<tr>{''.join(f'<th>{x}</th>' for x in heads)}</tr>"]
    for row in rows:
        last, advantage = row["updates"][-1], row["advantage"]
        if isinstance(advantage, list):
            advantage = sum(advantage) / max(len(advantage), 1)
        clipped = {i for x in row["updates"] for i, y in enumerate(x["clipped"]) if y}
        name = (
            f"{row['prompt']}.{row['sample']}{'' if row['trained'] else ', left out'}"
        )
        numbers = row["total"], advantage
        numbers += tuple(last[x] for x in ("loss", "grad_norm", "grad_cosine"))
        cells = [name, len(row["tokens"]), *map(_short, numbers), len(clipped)]
        found.append(f"<tr>{''.join(f'<td>{x}</td>' for x in cells)}</tr>")
    return f"<table>{''.join(found)}</table>"


def _tokens(row: Mapping[str, Any]) -> str:
    pieces = row.get("pieces") or [f"{token} " for token in row["tokens"]]
    spans = []
    for number, piece in enumerate(pieces):
        clips = [x["clipped"][number] for x in row["updates"]]
        kind = next((x for x in clips if x), "")
        kind = kind if row["sampled"][number] else "reply"
        ratio = _short(row["updates"][-1]["ratio"][number])
        word = html.escape(piece)
        spans.append(f'<span class="{kind}" title="{ratio}">{word}</span>')
    name = f"{row['prompt']}.{row['sample']}"
    head = f"{name}: reward {_short(row['total'])}"
    return f"<p>{head}</p><div class=row>{''.join(spans)}</div>"
