"""The command line, in this process."""

import collections
import dataclasses
import io
import json
import logging
import shutil
from pathlib import Path

import pytest

from grpojax import text
from grpojax.runs.cli import generate as generating, main as commands, train as training
from grpojax.runs.cli.process import log_from
from grpojax.runs.distributed.preemption import PreemptedError
from grpojax.runs.recipe import load as recipes
from grpojax.runs.recipe.policy import step_of
from grpojax.runs.recipe.schema import Recipe
from grpojax.runs.training import fit
from grpojax.runs.training.health import DivergedError

from ..conftest import SHIPPED


@pytest.fixture(autouse=True)
def quiet():
    logger = logging.getLogger("grpojax")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture
def refused(capsys):
    """Runs a command line that is refused, and returns what it says."""

    def run(*argv, **environment) -> str:
        assert commands.main([str(word) for word in argv], environment) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith("grpojax: ")
        return captured.err

    return run


def call(capsys, *argv, **environment) -> str:
    assert commands.main([str(word) for word in argv], environment) == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    """The directory of a run of one step."""
    path = tmp_path_factory.mktemp("runs") / "run"
    training.train(recipes.load(Recipe(), None, settings(run__steps=1)), path)
    return path


def test_the_whole_recipe_is_printed(capsys, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("run:\n  seed: ${SEED}\n")
    words = ["train", file, "--set", "run.steps=0", "--max-eval-samples", "7"]
    printed = call(capsys, *words, "--print-config", SEED="3")
    file.write_text(printed)
    recipe = recipes.load(Recipe(), file)
    assert (recipe.run.seed, recipe.run.steps) == (3, 0)
    assert recipe.evaluations.settings["held_out"].limit == 7
    kept = dataclasses.replace(recipe.run, seed=0, steps=40)
    before = Recipe().evaluations
    assert dataclasses.replace(recipe, run=kept, evaluations=before) == Recipe()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "nowhere.yaml"], "There is none at 'nowhere.yaml'"),
        (["train", "--set", "run.stpes=1"], "The nearest is `run.steps`"),
        (["train", "--set", "run.seed=${SEED}"], "needs the variable SEED"),
        (
            ["train", "--set", "model.path=./nowhere"],
            "`model.path` must lead to a file",
        ),
        (["train", "--max-eval-samples", "0"], "must be at least 1. Received 0"),
        (["train", "--set", "data.task=gsm9k"], "`data.task` must be one of addition"),
        (["evaluate", "/no/where"], "`model.path` must lead to a file"),
        (["generate", "gsm8k-tiny", "--samples", "0"], "samples must be a positive"),
        (["generate", "gsm8k-tiny", "--prompt", ""], "A prompt needs at least one"),
    ],
)
def test_what_cannot_be_is_refused(refused, words, message):
    assert message in refused(*words)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollout__group": 1}, "a group of one has no baseline"),
        ({"update__minibatches": 5}, "minibatches must divide"),
        ({"model__path": "nowhere"}, "nowhere"),
        ({"data__path": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"data__max_prompt_length": 3}, "A prompt must fit max_prompt_length=3"),
        ({"data__chat": "true"}, "chat needs a chat template"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    arguments, refused, changes, message, tmp_path
):
    said = refused("train", *arguments(**changes), "--out", tmp_path / "run")
    assert message in said
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_that_is_too_large_is_refused(arguments, refused, small_vocabulary):
    message = refused("train", *arguments(model__path=small_vocabulary))
    assert "must not be larger than the policy's vocabulary" in message


def test_a_run_is_never_overwritten(arguments, refused, tmp_path):
    (tmp_path / "summary.json").write_text("precious")
    message = refused("train", *arguments(), "--out", tmp_path)
    assert "holds summary.json already: resume it, choose" in message
    assert (tmp_path / "summary.json").read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_evaluation_leaves_a_training_run_as_it_is(finished, refused):
    files = lambda: {
        path: path.read_bytes() for path in finished.rglob("*") if path.is_file()
    }
    before = files()
    message = refused("evaluate", finished, "--out", finished, "--resume")
    assert "holds one of kind 'training'. Received 'evaluation'" in message
    assert files() == before


def test_a_directory_that_orbax_takes_for_a_pattern_is_refused(
    arguments, refused, tmp_path
):
    message = refused("train", *arguments(), "--out", tmp_path / "lr[1e-4]")
    assert "glob character" in message and "choose another name" in message
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_takes_no_step_reads_no_weights_and_writes_nothing(
    arguments, capsys, model, tmp_path
):
    bare = shutil.copytree(
        model, tmp_path / "bare", ignore=lambda *_: ["model.safetensors"]
    )
    changed = arguments(model__path=bare)
    printed = call(capsys, "train", *changed, "--out", tmp_path / "run", "--dry-run")
    assert "shapes 8 rows a step" in printed and "completions of 6\n" in printed
    # One layer of width 16, as the fixture says; 4 bytes each, and two moments.
    vocab = text.load_tokenizer(SHIPPED).vocab_size
    attention, mlp, norms = 16 * 8 * (2 + 1 + 1 + 2), 3 * 16 * 32, 3 * 16
    numbers = vocab * 16 + attention + mlp + norms
    assert f"params {numbers:,}\n" in printed
    assert f"parameters {numbers * 4 / 1024:,.1f} KiB" in printed
    assert f"optimizer {(numbers * 8 + 4) / 1024:,.1f} KiB" in printed
    assert "temporary " in printed and "no step was taken" in printed
    assert list(tmp_path.iterdir()) == [bare]


@pytest.mark.slow
def test_a_dry_run_of_a_checkpoint_has_the_shapes_of_its_policy(finished, capsys):
    words = ["--from", finished / "checkpoints" / "1", "--dry-run"]
    printed = call(capsys, "train", *words, "--set", "model.dtype=bfloat16")
    vocab = text.load_tokenizer(SHIPPED).vocab_size
    numbers = vocab * 16 + 16 * 8 * (2 + 1 + 1 + 2) + 3 * 16 * 32 + 3 * 16
    assert f"params {numbers:,}\n" in printed
    assert f"parameters {numbers * 2 / 1024:,.1f} KiB" in printed


def test_the_model_of_a_run_is_judged_on_its_problems(finished, capsys, tmp_path):
    words = ["--max-eval-samples", "3", "--out", tmp_path / "judged"]
    printed = call(capsys, "evaluate", finished, *words)
    assert f"held-out accuracy of {finished}: " in printed
    (line,) = (tmp_path / "judged" / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(line)["problems"] == 3 and json.loads(line)["step"] == 1
    assert (tmp_path / "judged" / "predictions" / "1-sampled.jsonl").exists()
    summary = json.loads((tmp_path / "judged" / "summary.json").read_text())
    assert summary["complete"] and summary["n_eval"] == 3 and summary["step"] == 1
    recipe = recipes.load(Recipe(), tmp_path / "judged" / "config.yaml")
    assert recipe.rollout.max_new_tokens == 6
    assert recipe.model.path == str(finished)


def test_a_run_without_its_model_is_refused(refused, tmp_path):
    (tmp_path / "config.yaml").write_text("run:\n  seed: 1\n")
    assert "A run has a model when it is finished" in refused("evaluate", tmp_path)


def test_nothing_held_out_cannot_be_judged(finished, refused):
    message = refused("evaluate", finished, "--set", "run.eval_problems=0")
    assert "Received evaluations.held_out.problems=0: raise it" in message


def test_answers_are_shown_with_what_they_are_worth(finished, capsys):
    printed = call(capsys, "generate", finished, "--problems", 2, "--samples", 3)
    assert printed.count("Answer:") == 2
    assert printed.count("reward ") == printed.count(", correct ") == 6


def test_records_have_the_step_of_their_policy(finished, tmp_path):
    """A run's last, a checkpoint's own, and 0 of what is no run's."""
    copy = shutil.copytree(finished, tmp_path / "run")
    model = shutil.copytree(finished / "model", tmp_path / "model")
    shutil.copytree(copy / "checkpoints" / "1", copy / "checkpoints" / "7")
    steps = {copy: 1, copy / "model": 1, copy / "checkpoints" / "7": 7, model: 0}
    assert {path: step_of(str(path)) for path in steps} == steps
    recipe = recipes.load(Recipe(), finished / "config.yaml")
    recipe = recipes.load(recipe, None, [f"model.path={copy}/checkpoints/7"])
    assert generating.generate(recipe, ["One"])[0]["step"] == 7
    # The model is that of the end; a run that is resumed for more steps has later ones.
    shutil.rmtree(copy / "model")
    assert step_of(str(copy)) == 7


def test_a_prompt_of_a_person_is_answered_and_not_paid(finished, capsys):
    words = ["--prompt", "One and", "--prompt", "Two and two"]
    printed = call(capsys, "generate", finished, *words)
    assert printed.count("mean log-probability") == 2 and "Two and two" in printed
    assert "reward " not in printed


def test_a_completion_of_a_prompt_ends_with_the_stop_string(finished):
    """The tokens are those of a run without it, up to its first occurrence."""
    recipe = recipes.load(Recipe(), finished / "config.yaml")
    recipe = recipes.load(recipe, None, ["rollout.max_new_tokens=40"])

    def complete(*words):
        changed = recipes.load(recipe, None, [f"model.path={finished}", *words])
        (record,) = generating.generate(changed, ["One"], samples=8)
        return record["samples"]

    free = complete()
    every = filter(str.isascii, "".join(sample["text"] for sample in free))
    stop = collections.Counter(every).most_common(1)[0][0]
    stopped = complete(f"data.stop={json.dumps(stop)}")
    for sample, whole in zip(stopped, free, strict=True):
        pieces, found = sample["pieces"], stop in whole["text"]
        assert whole["pieces"][: len(pieces)] == pieces
        assert stop not in "".join(pieces[:-1]) and (stop in pieces[-1]) == found
        assert sample["terminated"] == (found or whole["terminated"])
    assert stopped != free


def test_tints_go_from_red_to_green():
    assert generating.color_of(0.0) == "rgb(215,0,0)"
    assert generating.color_of(0.5) == "rgb(215,175,0)"
    assert generating.color_of(1.0) == "rgb(0,175,0)"


def test_the_level_of_logs_is_a_variable(refused, capsys, caplog):
    assert "LOGLEVEL must be one of" in refused("train", LOGLEVEL="loud")
    words = ["train", "--set", "data.task=gsm9k"]
    assert commands.main(words, {"LOGLEVEL": "debug"}) == 2
    assert "refused" in [record.message for record in caplog.records]
    capsys.readouterr()


def test_control_characters_are_spelled_out_and_records_stay(monkeypatch):
    root, stream = logging.getLogger(), io.StringIO()
    handler = logging.StreamHandler(stream)
    monkeypatch.setattr(root, "handlers", [handler])
    for _ in range(2):
        log_from("WARNING")
    record = logging.LogRecord("x", 30, "", 0, "%s\n%d", ("\x1b[2J", 7), None)
    handler.handle(record)
    assert stream.getvalue() == "WARNING x: \\x1b[2J\n7\n" and record.args[1] == 7


def test_what_is_resumed_must_be_there(refused, tmp_path):
    assert "name it with --out" in refused("train", "--resume")
    nothing = tmp_path / "nothing"
    assert "There is none in" in refused("train", "--resume", "--out", nothing)
    assert not nothing.exists()


@pytest.mark.slow
def test_a_run_that_is_not_there_begins_if_a_recipe_is_named(
    arguments, capsys, tmp_path
):
    """What a scheduler starts again and again is one command."""
    words = ("train", "--resume", "--out", tmp_path / "run", *arguments(run__steps=0))
    call(capsys, *words)
    call(capsys, *words)
    events = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    kinds = [json.loads(event)["kind"] for event in events]
    assert kinds == ["start", "finish", "resume", "finish"]


def test_a_report_says_where_it_is(finished, capsys, refused, tmp_path):
    markdown, page = call(capsys, "report", finished, "--out", tmp_path).split()
    assert Path(markdown).read_text().startswith("# ")
    assert "<html" in Path(page).read_text()
    assert "nowhere" in refused("report", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PreemptedError("SIGTERM was received"), 75),
        pytest.param(DivergedError("no more"), 3, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_leaves_says_so_by_its_exit_code(
    arguments, capsys, monkeypatch, error, code
):
    def leave(*_, **__):
        raise error

    monkeypatch.setattr(fit, "run", leave)
    assert commands.main(["train", *arguments()], {}) == code
    assert str(error) in capsys.readouterr().err


def test_an_evaluation_goes_on_from_what_was_said(finished, capsys, tmp_path):
    path = tmp_path / "judged"
    words = ("evaluate", finished, "--out", path, "--resume")
    first = call(capsys, *words)
    predictions = path / "predictions" / "1-sampled.jsonl"
    whole = predictions.read_bytes()
    predictions.write_bytes(whole[: len(whole) // 2])
    (path / "evaluations.jsonl").unlink()
    assert call(capsys, *words) == first
    assert predictions.read_bytes() == whole
    assert len((path / "evaluations.jsonl").read_text().splitlines()) == 1
