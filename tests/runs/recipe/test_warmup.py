"""A warm start from a recipe: rows, templates, resume, a mesh, and what follows it."""

import json

import numpy as np
import pytest

from grpojax import models, text
from grpojax.runs.cli import main as commands, train as training
from grpojax.runs.recipe import build, load as recipes
from grpojax.runs.recipe.schema import Recipe

from ...text.test_rendered_replies import CHATML
from ..conftest import SHIPPED


SMALL = ["run.stage=warmup", "warmup.rows=8", "optimizer.learning_rate=1e-2"]


def recipe(settings, *words, **changes) -> Recipe:
    return recipes.load(Recipe(), None, [*settings(**changes), *SMALL, *words])


def records(path):
    return [
        json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()
    ]


def without_times(path):
    times = "time", "step_time"
    return [{k: x for k, x in row.items() if k not in times} for row in records(path)]


def texts_of(step, tokenizer):
    given = step.demonstrations
    rows = zip(given.tokens, given.learned, strict=True)
    return [tokenizer.decode(x[y].tolist()) for x, y in rows]


@pytest.mark.slow
def test_a_run_learns_its_rows_and_is_resumed_bit_for_bit(settings, tmp_path):
    words = ["checkpoint.every=3", "evaluations.held_out.problems=4"]
    training.train(recipe(settings, *words, run__steps=6), tmp_path / "whole")
    whole = without_times(tmp_path / "whole")
    assert whole[-1]["loss"] < whole[0]["loss"] - 0.3
    assert whole[-1]["epoch"] == pytest.approx(48 / 20)
    kept = tmp_path / "whole" / "checkpoints"
    assert {x.name for x in kept.iterdir() if x.is_dir()} >= {"3", "6"}
    made = [
        json.loads(line)
        for line in (tmp_path / "whole" / "evaluations.jsonl").read_text().splitlines()
    ]
    assert [x["step"] for x in made] == [0, 6]
    # Without its last checkpoint it goes on from the one before.
    for folder in (kept / "6",):
        for file in folder.rglob("*"):
            if file.is_file():
                file.write_bytes(b"")
    training.train(
        recipe(settings, *words, run__steps=6), tmp_path / "whole", resume=True
    )
    assert without_times(tmp_path / "whole") == whole
    assert models.load(tmp_path / "whole" / "model").vocab_size > 0


def test_completions_are_those_of_the_rows_and_end(settings):
    made = build.build(recipe(settings))
    step, tokenizer = made["step"], text.load_tokenizer(SHIPPED)
    rows = made["evaluation"]["held_out"].training.rows
    assert texts_of(step, tokenizer) == list(rows["answer"])
    given = step.demonstrations
    last = np.sum(given.learned, axis=1) - 1
    ends = np.asarray(given.tokens)[np.arange(given.size), last]
    assert set(ends.tolist()) == {tokenizer.end_tokens[0]}
    template = build.build(recipe(settings, "warmup.completion= = {{ answer }}!"))
    wanted = [f"= {answer}!" for answer in rows["answer"]]
    found = texts_of(template["step"], tokenizer)
    assert [x.strip() for x in found] == wanted


def test_messages_are_rendered_as_for_rollouts(model, tmp_path):
    tokenizer = text.load_tokenizer(SHIPPED)
    folder = tmp_path / "chat"
    models.save(models.load(model), folder)
    tokenizer.save(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    template = CHATML.replace("<|im_end|>", "</s>")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config | {"chat_template": template})
    )
    said = [
        [
            {"role": "user", "content": f"{n} + 1?"},
            {"role": "assistant", "content": "What?"},
            {"role": "user", "content": "Sum."},
            {"role": "assistant", "content": f"{n + 1}"},
        ]
        for n in range(6)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"messages": x}) + "\n" for x in said))
    words = [
        *("data.task=questions", f"data.path={path}", "data.prompt=messages"),
        *("data.answer=NoAnswer", "data.last_reply=drop", "data.held_out=1"),
        *("warmup.completion=messages", f"model.path={folder}", *SMALL),
        *("run.steps=1", "rollout.max_new_tokens=6"),
    ]
    step = build.build(recipes.load(Recipe(), None, words))["step"]
    chat = text.load_tokenizer(folder)
    given = step.demonstrations
    assert given.size == 5
    for row in range(given.size):
        prompt = given.prompt.tokens[row][: given.prompt.length[row]].tolist()
        tokens = given.tokens[row][given.learned[row]].tolist()
        number = int(chat.decode(tokens))
        assert prompt == chat.chat(said[number - 1][:-1])
        assert tokens == [*chat.encode(f"{number}"), *chat.end_tokens[:1]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["warmup.completion=solution"], "Row 1 has None in 'solution'"),
        (["warmup.completion='{{ solution }}'"], "cannot be rendered for row 1"),
        (["warmup.completion='{{ answer'"], "must be a jinja template"),
        (["warmup.max_tokens=2"], "`warmup.long_completions: skip`"),
        (["data.task=addition"], "Row 1 has \\d+ in 'answer'"),
    ],
)
def test_rows_that_cannot_be_learned_are_refused(settings, words, message):
    given = [x for x in settings() if "addition" not in words[0] or "data" not in x]
    with pytest.raises(ValueError, match="(?s)" + message.replace("{", r"\{")):
        build.build(recipes.load(Recipe(), None, [*given, *SMALL, *words]))


def test_long_completions_are_skipped_if_it_says_so(settings):
    every = build.build(recipe(settings))["step"].demonstrations
    longest = int(np.max(np.sum(every.learned, axis=1)))
    words = [f"warmup.max_tokens={longest - 1}", "warmup.long_completions=skip"]
    made = build.build(recipe(settings, *words))
    assert 0 < made["step"].demonstrations.size < every.size
    assert "too long and left out" in made["config"].summary


@pytest.mark.slow
def test_the_command_warms_a_model_up_and_train_goes_on(settings, model, tmp_path):
    out = tmp_path / "warm"
    words = [*settings(run__steps=1), *SMALL[1:]]
    words = [word for word in words if not word.startswith("model.path=")]
    given = [word for pair in words for word in ("--set", pair)]
    argv = ["warmup", str(model), *given, "--out", str(out)]
    assert commands.main(argv, {}) == 0
    config = recipes.load(Recipe(), out / "config.yaml")
    assert config.run.stage == "warmup" and config.model.path == str(model)
    assert commands.main(["report", str(out)], {}) == 0
    report = (out / "report.md").read_text()
    assert "a supervised warm start of `8` completions per step" in report
    assert "algorithm `grpo`" not in report
    after = ["train", "--from", str(out), "--out", str(tmp_path / "trained")]
    assert commands.main(after, {}) == 0
    config = recipes.load(Recipe(), tmp_path / "trained" / "config.yaml")
    assert config.run.stage == "train" and config.model.path == str(out)
    assert "reward" in records(tmp_path / "trained")[0]


@pytest.mark.slow
def test_a_mesh_learns_the_same(settings, tmp_path):
    mesh = {"mesh__fsdp": 4, "mesh__tensor": 2}
    one = training.train(recipe(settings), tmp_path / "one")
    many = training.train(recipe(settings, **mesh), tmp_path / "many")
    for x, y in zip(records(tmp_path / "one"), records(tmp_path / "many"), strict=True):
        assert x["loss"] == pytest.approx(y["loss"], rel=1e-5)
    np.testing.assert_allclose(
        np.asarray(one.policy.embedding), np.asarray(many.policy.embedding), atol=1e-4
    )
