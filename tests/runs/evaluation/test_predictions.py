"""A file of predictions says the same however often its evaluation was interrupted."""

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.random as jr
import numpy as np
import pytest

from grpojax.rollout import Categorical, Greedy
from grpojax.runs.evaluation import predictions
from grpojax.runs.evaluation.evaluate import Evaluation
from grpojax.runs.evaluation.evaluator import Evaluator
from grpojax.runs.evaluation.result import EvaluationResult

from ...envs.double import ByteTokenizer
from ...helpers import transformer
from .test_evaluation import KEY, parity_env


POLICY, ENV = transformer(), parity_env()
SIZES = dict(samples=2, batch=3, tokenizer=ByteTokenizer(), key=KEY)


def evaluate(policy, env, *, predictions=None, tokenizer=None, report=None, **settings):
    evaluation = Evaluation(env, **settings)
    return evaluation.run(
        policy, predictions=predictions, tokenizer=tokenizer, report=report
    )


def same(a: EvaluationResult, b: EvaluationResult) -> bool:
    """All but the clock."""
    plain = lambda x: jax.tree.map(
        lambda leaf: (
            (leaf.dtype, leaf.tolist()) if isinstance(leaf, np.ndarray) else leaf
        ),
        dataclasses.asdict(dataclasses.replace(x, seconds=0.0, seconds_compile=0.0)),
        is_leaf=lambda leaf: isinstance(leaf, np.ndarray),
    )
    return plain(a) == plain(b)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    path = tmp_path_factory.mktemp("full") / "deep" / "predictions.jsonl"
    return evaluate(POLICY, ENV, predictions=path, **SIZES), path.read_bytes()


def test_the_file_says_what_the_evaluation_says(full, tmp_path):
    evaluation, data = full
    assert same(evaluation, evaluate(POLICY, ENV, **SIZES))  # Written or not.
    header, *lines = [json.loads(line) for line in data.splitlines()]
    assert (header["format"], header["problems"], header["samples"]) == (1, 7, 2)
    assert header["sampler"] == {"name": "Categorical", "temperature": 1.0}
    assert [line["problem"] for line in lines] == list(range(7))
    decode = ByteTokenizer().decode
    for p, line in enumerate(lines):
        assert line["prompt_tokens"] == evaluation.prompts[p].tolist()
        assert line["prompt"] == decode(line["prompt_tokens"])
        assert line["answer"] is None and len(line["samples"]) == 2
        for g, sample in enumerate(line["samples"]):
            length = evaluation.lengths[p, g]
            assert sample["tokens"] == evaluation.tokens[p, g, :length].tolist()
            assert sample["text"] == decode(sample["tokens"])
            assert sample["length"] == length
            assert sample["correct"] == evaluation.correct[p, g]
            assert sample["terminated"] == evaluation.terminated[p, g]
            assert sample["rewards"] == {
                "correct": float(sample["correct"]),
                "half": 0.5,
            }
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(data)
    read = predictions.read(path)
    checksums = [line.pop("checksum") for line in (header, *lines)]
    assert len({*checksums}) == 8 and read.header == header and read.records == lines
    assert read.result is not None and same(read.result, evaluation)
    plain = evaluation.to_json()
    assert read.result.to_json() == plain == json.loads(json.dumps(plain))


def cuts() -> list[str]:
    within = ["nothing", "in the header", "after the header"]
    return within + [f"{where} line {i}" for i in range(7) for where in ("in", "after")]


@pytest.mark.parametrize("cut", cuts())
def test_it_resumes_from_every_kind_of_boundary(full, cut, tmp_path):
    evaluation, data = full
    ends = np.cumsum([len(line) for line in data.splitlines(keepends=True)]).tolist()
    header = ends[0]
    known = {"nothing": 0, "in the header": header // 2, "after the header": header}
    if cut in known:
        size, done = known[cut], 0
    else:
        line = int(cut.split()[-1])
        inside = cut.startswith("in")
        # All but its newline: complete JSON, and still a line that was cut short.
        size, done = (
            (ends[line + 1] - 1, line) if inside else (ends[line + 1], line + 1)
        )
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(data[:size])
    if size >= header:
        assert len(predictions.read(path).records) == done
    assert path.read_bytes() == data[:size]  # Reading repairs nothing.
    seen = []
    report = lambda done, count: seen.append((done, count))
    again = evaluate(POLICY, ENV, predictions=path, report=report, **SIZES)
    assert path.read_bytes() == data
    assert same(again, evaluation) and again.to_json() == evaluation.to_json()
    # What is there is not sampled again: only batches that lack something are run.
    assert seen == [(end, 7) for end in (3, 6, 7) if end > done]


def test_another_batch_size_continues_too(full, tmp_path):
    evaluation, data = full
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(b"".join(data.splitlines(keepends=True)[:3]))
    again = evaluate(POLICY, ENV, predictions=path, **{**SIZES, "batch": 4, "slots": 3})
    assert path.read_bytes() == data and same(again, evaluation)


OTHER = {
    "model": dict(policy=transformer(seed=1)),
    "key": dict(key=jr.key(1)),
    "samples": dict(samples=3),
    "problems": dict(problems=5),
    "success": dict(success="half"),
    "sampler.name": dict(sampler=Greedy()),
    "sampler.temperature": dict(sampler=Categorical(0.5)),
    "data": dict(env=parity_env(seed=1)),
    "environment.size": dict(env=parity_env(size=8), problems=7),
    "split": dict(split="train"),
}


@pytest.mark.parametrize("name", OTHER)
def test_another_evaluation_is_refused_by_name(full, name, tmp_path):
    _, data = full
    path = tmp_path / "predictions.jsonl"
    cut = data[: len(data) // 2]
    path.write_bytes(cut)
    arguments = {"policy": POLICY, "env": ENV, **SIZES, **OTHER[name]}
    message = f"holds the predictions of another evaluation: .*{name} was .*, now "
    with pytest.raises(ValueError, match=message):
        evaluate(predictions=path, **arguments)
    assert path.read_bytes() == cut  # Not even its last line is repaired.


def test_what_is_no_file_of_predictions_is_left_alone(full, tmp_path):
    _, data = full
    path = tmp_path / "predictions.jsonl"
    header, *_ = data.splitlines(keepends=True)
    for content, message in [
        (b"precious", "is no file of predictions"),
        (b"precious\n", "line 1: "),
        (b'{"step": 1}\n', "line 1: "),
        (header.replace(b'"format": 1', b'"format": 9'), "line 1: its checksum"),
        (unverified(header).replace(b'"format": 1', b'"format": 9'), "'format' is 9"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            evaluate(POLICY, ENV, predictions=path, **SIZES)
        assert path.read_bytes() == content
    path.write_bytes(header[:-1])
    with pytest.raises(ValueError, match="has no header"):
        predictions.read(path)


def unverified(content: bytes) -> bytes:
    """As older versions have written it."""
    return re.sub(rb', "checksum": "[0-9a-f]{16}"\}\n', b"}\n", content)


def flipped(line: bytes) -> bytes:
    """Another answer, in JSON that is as good."""
    changed = line.replace(b'"correct": true', b'"correct": false').replace(b"[", b"[ ")
    assert changed != line and json.loads(changed)
    return changed


DAMAGES = {
    "flip": lambda lines: [*lines[:3], flipped(lines[3]), *lines[4:]],
    "halve": lambda lines: [b"".join(lines)[: len(b"".join(lines)) // 2]],
    "garbage": lambda lines: [*lines, b"garbage\n"],
    "zeros": lambda lines: [*lines[:2], bytes(len(lines[2])), *lines[3:]],
    "double": lambda lines: [*lines[:3], lines[2], *lines[3:]],
    "swap": lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
    "lack": lambda lines: [*lines[:2], *lines[3:]],
    "bare": lambda lines: [*lines[:2], unverified(lines[2]), *lines[3:]],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_problems_are_named_and_sampled_again(full, damage, tmp_path, caplog):
    evaluation, data = full
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(b"".join(DAMAGES[damage](data.splitlines(keepends=True))))
    again = evaluate(POLICY, ENV, predictions=path, **SIZES)
    assert path.read_bytes() == data and same(again, evaluation)
    named = "From there on its problems are sampled again" in caplog.text
    assert named == (damage != "halve")


def test_a_file_of_an_older_version_is_continued_as_it_is(full, tmp_path, caplog):
    evaluation, data = full
    path = tmp_path / "predictions.jsonl"
    older = unverified(data)
    path.write_bytes(b"".join(older.splitlines(keepends=True)[:4]))
    again = evaluate(POLICY, ENV, predictions=path, **SIZES)
    assert path.read_bytes() == older and same(again, evaluation)
    assert caplog.text == ""


@pytest.mark.parametrize("what", ["other", "none"])
def test_a_run_moves_another_file_aside_and_names_it(full, what, tmp_path):
    evaluation, data = full
    path = tmp_path / "predictions.jsonl"
    other = data if what == "other" else b"garbage\n"
    path.write_bytes(other)
    sizes = {x: SIZES[x] for x in ("samples", "batch")}
    key = KEY if what == "none" else jr.key(1)
    evaluator, said = Evaluator(Evaluation(ENV, key=key, **sizes), POLICY), []
    evaluator.run(
        POLICY, predictions=path, tokenizer=SIZES["tokenizer"], warn=said.append
    )
    (sentence,) = said
    assert "It is predictions.jsonl.damaged now" in sentence
    assert (tmp_path / "predictions.jsonl.damaged").read_bytes() == other
    assert (path.read_bytes() == data) == (what == "none")


def test_what_does_not_fit_leaves_no_file(tmp_path):
    path = tmp_path / "predictions.jsonl"
    for wrong, message in [
        ({"tokenizer": None}, "needs a tokenizer"),
        ({"slots": 0}, "slots must be a positive"),
        ({"success": "right"}, "Received 'right'"),
    ]:
        with pytest.raises(ValueError, match=message):
            evaluate(POLICY, ENV, predictions=path, **{**SIZES, **wrong})
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_say_so_far(tmp_path):
    path = tmp_path / "predictions.jsonl"
    header = {"problems": 3, "samples": 1, "max_completion_length": 4}
    assert predictions.resume(path, header).records == []
    assert predictions.read(path).records == []
    assert predictions.read(path).result is None


# Kills


CHILD = """
import sys
import jax.random as jr
from tests.envs.double import ByteTokenizer
from tests.helpers import transformer
from tests.runs.evaluation.test_evaluation import parity_env
from grpojax.runs.evaluation.evaluate import Evaluation

print("ready", flush=True)
Evaluation(parity_env(size=400), samples=4, batch=5, key=jr.key(0)).run(
    transformer(), predictions=sys.argv[1], tokenizer=ByteTokenizer()
)
"""


@pytest.mark.slow
def test_killed_at_ten_instants_it_ends_as_if_nothing_had_happened(tmp_path):
    def start(path):
        root = Path(__file__).resolve().parents[3]
        flags = "--xla_backend_optimization_level=0"
        return subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), "XLA_FLAGS": flags},
            stdout=subprocess.DEVNULL,
        )

    def size(path):
        return path.stat().st_size if path.exists() else 0

    undisturbed, killed = tmp_path / "undisturbed.jsonl", tmp_path / "killed.jsonl"
    assert start(undisturbed).wait() == 0
    wanted = undisturbed.read_bytes()
    draw, states = random.Random(0), set()
    for instant in sorted(draw.sample(range(len(wanted)), 10)):
        child = start(killed)
        # Wherever the file happens to be once it is that long, and a moment later.
        while size(killed) < instant and child.poll() is None:
            time.sleep(0.001)
        time.sleep(draw.random() * 0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        left = killed.read_bytes()
        assert wanted.startswith(left)
        states.add(len(left))
    assert len(states) > 5 and min(states) < len(wanted)
    assert start(killed).wait() == 0
    assert killed.read_bytes() == wanted
