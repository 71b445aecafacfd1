import io

from rich.console import Console

from grpojax.runs.training.display.progress import Progress


METRICS = {
    "step_time": 0.5,
    "reward": 0.25,
    "rewards/correct/mean": 0.125,
    "completions/mean_length": 20.5,
    "num_tokens": 1000.0,
}


def lines(steps: int, terminal: bool, metrics=METRICS) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100)
    with Progress(steps, console) as bar:
        for step in range(1, steps + 1):
            bar.update(step, metrics)
    return stream.getvalue()


def test_a_line_now_and_then_without_a_terminal():
    text = lines(8, terminal=False)
    assert [line.split()[1] for line in text.splitlines()] == [
        "1/8",
        "6/8",
        "8/8",
    ]
    first = (
        "step 1/8  reward 0.250  accuracy 12.5%  length 20.5  2,000 tokens/s  4 s left"
    )
    assert text.splitlines()[0] == first


def test_a_bar_on_a_terminal():
    text = lines(8, terminal=True)
    assert "\x1b[" in text and "8/8" in text and "reward 0.250" in text
    assert "step 1/8" not in text


def test_accuracy_is_shown_where_there_is_one():
    metrics = {k: v for k, v in METRICS.items() if k != "rewards/correct/mean"}
    assert "accuracy" not in lines(1, terminal=False, metrics=metrics)
