"""What is not as a run wrote it is found, restored if it can be, and named."""

import json

import pytest

from grpojax.runs.io.integrity import checksums
from grpojax.runs.io.run_directory import (
    COMPLETIONS,
    CONFIG,
    EVALUATIONS,
    EVENTS,
    METRICS,
    RunDirectory,
)


STEPS = 4


def lines(*steps: int) -> bytes:
    return b"".join(b'{"step": %d, "text": "abc"}\n' % step for step in steps)


@pytest.fixture
def killed(tmp_path):
    """A run that was killed after step 4, with a checkpoint of step 3; and its files.

    After the checkpoint there was an evaluation of step 3.
    """
    directory = RunDirectory(tmp_path / "run")
    with directory:
        directory.start("steps: 9\n", {"status": "running"})
        directory.append(EVALUATIONS, {"step": 0, "text": "abc"})
        for step in range(1, STEPS + 1):
            directory.append(METRICS, {"step": step, "text": "abc"})
            directory.append(COMPLETIONS, {"step": step, "text": "abc"})
            if step == 3:
                snapshot = directory.snapshot()
                directory.append(EVENTS, {"step": 3, "kind": "checkpoint"})
                directory.append(EVALUATIONS, {"step": 3, "text": "abc"})
                directory.write_summary()
    return directory.path, snapshot


def resume(path, snapshot) -> tuple[dict[str, bytes], str]:
    with RunDirectory(path, resume=True) as directory:
        problems = directory.resume(3, {"status": "running"}, snapshot)
    names = (METRICS, COMPLETIONS, EVALUATIONS)
    return {name: (path / name).read_bytes() for name in names}, " ".join(problems)


WHOLE = {
    METRICS: lines(1, 2, 3),
    COMPLETIONS: lines(1, 2, 3),
    EVALUATIONS: lines(0, 3),
}


def test_a_killed_run_has_no_damage(killed):
    assert resume(*killed) == (WHOLE, "")
    # And once more, with the checksums of the resumed run.
    assert resume(*killed) == (WHOLE, "")


DAMAGES = {
    "flip": lambda content: content.replace(b"abc", b"abd", 1),
    "halve": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "garbage": lambda content: content + b"garbage\n",
    "zeros": lambda content: bytes(10) + content[10:],
    "double": lambda content: content[: content.index(b"\n") + 1] + content,
    "swap": lambda content: content.replace(b"abc", b"xyz"),
    "record": lambda content: content + lines(1),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_a_checkpoint_holds_is_brought_back(killed, name, damage):
    path, snapshot = killed
    found = (path / name).read_bytes()
    (path / name).write_bytes(DAMAGES[damage](found))
    kept, problems = resume(path, snapshot)
    whole = dict(WHOLE)
    if name == EVALUATIONS and damage not in ("garbage", "record"):
        # What was evaluated after the checkpoint is to be evaluated again.
        whole[name] = lines(0)
    if name == COMPLETIONS and damage in ("flip", "zeros"):
        whole[name] = lines(2, 3)
    if name == COMPLETIONS and damage == "halve":
        whole[name] = lines(1, 2)
    if name == COMPLETIONS and damage in ("empty", "swap"):
        whole[name] = b""
    assert kept == whole
    # An evaluation that is made again is no loss.
    assert name in problems or kept[COMPLETIONS] == WHOLE[COMPLETIONS]


def test_events_are_kept_as_far_as_they_can_be_read(killed):
    path, snapshot = killed
    before = (path / EVENTS).read_bytes()
    (path / EVENTS).write_bytes(b"garbage\n" + before)
    _, problems = resume(path, snapshot)
    assert (path / EVENTS).read_bytes() == before
    assert "events.jsonl is not as it was written" in problems


def test_a_configuration_that_was_edited_is_named(killed):
    path, snapshot = killed
    (path / CONFIG).write_text("steps: 10\n")
    assert "config.yaml is not as the run wrote it" in resume(path, snapshot)[1]


def test_a_configuration_may_be_replaced_until_a_kill(killed):
    """The checksum of the new one is written before it, beside the old one."""
    path, snapshot = killed
    with RunDirectory(path, resume=True) as directory:
        directory.resume(3, {"status": "running"}, snapshot)
        directory.write_config("steps: 20\n")
    assert resume(path, snapshot) == (WHOLE, "")
    (path / CONFIG).write_text("steps: 9\n")
    assert "config.yaml is not" in resume(path, snapshot)[1]


@pytest.mark.parametrize("damage", ["missing", "flip", "deep", "foreign"])
def test_without_its_summary_what_is_not_proven_is_made_again(killed, damage, tmp_path):
    path, snapshot = killed
    summary = path / "summary.json"
    text = summary.read_text()
    summary.unlink()
    if damage == "flip":
        summary.write_text(text.replace("running", "ranning"))
        assert checksums.is_broken(json.loads(summary.read_text()))
    elif damage == "deep":
        summary.write_text("[" * 100_000)
    elif damage == "foreign":
        with RunDirectory(tmp_path / "other") as other:
            other.start("", {})
            other.append(EVALUATIONS, {"step": 1})
            other.write_summary()
        summary.write_bytes((other.path / "summary.json").read_bytes())
    kept, _ = resume(path, snapshot)
    if damage == "foreign":
        assert kept == {**WHOLE, EVALUATIONS: lines(0)}
    else:
        assert kept == WHOLE


def test_a_model_has_checksums_in_the_summary_of_a_complete_run(tmp_path):
    with RunDirectory(tmp_path / "run") as directory:
        directory.start("", {})
        model = directory.path / "model"
        model.mkdir()
        for name in ("config.json", "model.safetensors"):
            (model / name).write_text(name)
        directory.update({}, complete=True)
    recorded = checksums.of_summary(directory.path / "summary.json")
    unlike = lambda: checksums.unlike(directory.path, "model", recorded)
    assert unlike() == []
    (model / "model.safetensors").write_text("model.safetensorz")
    assert unlike() == ["model/model.safetensors"]
    (model / "config.json").unlink()
    assert unlike() == ["model/config.json", "model/model.safetensors"]


def test_records_of_older_versions_have_no_checksums(tmp_path):
    (tmp_path / "config.yaml").write_text("steps: 1\n")
    (tmp_path / "summary.json").write_text('{"kind": "training", "complete": false}')
    for name, content in WHOLE.items():
        (tmp_path / name).write_bytes(content + lines(4))
    with RunDirectory(tmp_path, resume=True) as directory:
        problems = directory.resume(
            3, {}, {METRICS: lines(1, 2), EVALUATIONS: lines(0)}
        )
    assert problems == []
    assert {x: (tmp_path / x).read_bytes() for x in WHOLE} == {
        **WHOLE,
        METRICS: lines(1, 2),
    }
