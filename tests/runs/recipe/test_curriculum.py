"""The curriculum of a recipe: by name, or what the task says; and mixtures of tasks."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from envs.gsm8k import word_problems
from grpojax import curriculum, text
from grpojax.runs.checkpoint.resume_check import check_resumable
from grpojax.runs.cli import train as training
from grpojax.runs.recipe import build, load as recipes, tasks
from grpojax.runs.recipe.parts.curriculum import build_curriculum
from grpojax.runs.recipe.schema import Recipe
from grpojax.runs.training.display.progress import Progress

from ..conftest import SHIPPED


def recipe(*assignments: str) -> Recipe:
    return recipes.load(Recipe(), None, assignments)


MIXED = (
    "data.task=mixture",
    "data.tasks=[{task: gsm8k, train_rows: 6, weight: 3},"
    " {task: addition, name: sums, max_new_tokens: 3}]",
    "run.eval_problems=5",
)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ([], curriculum.Uniform),
        (["data.path=rows.jsonl"], curriculum.ShuffledEpochs),
        (["data.path=openai/gsm8k"], curriculum.ShuffledEpochs),
        (["data.path=rows.jsonl", "curriculum=Uniform"], curriculum.Uniform),
        (["data.task=addition"], curriculum.Uniform),
        (["data.task=tests.runs.recipe.user_parts:sums"], curriculum.Uniform),
        (MIXED, curriculum.Mixture),
    ],
)
def test_the_default_is_what_the_task_says(words, kind):
    assert isinstance(build_curriculum(recipe(*words)), kind)


def test_a_part_has_arguments():
    part = "{name: PassRateBand, low: 0.1, high: 1, column: level, floor: 0}"
    chosen = build_curriculum(recipe(f"curriculum={part}", "curriculum.low=0.3"))
    assert chosen == curriculum.PassRateBand(0.3, 1.0, floor=0.0, column="level")
    with pytest.raises(ValueError, match="`curriculum.flor`.*nearest is `floor`"):
        build.check(recipe("curriculum={name: Learnability, flor: 1}"))
    with pytest.raises(ValueError, match="`curriculum` is refused.*low=0.9 and high"):
        build.check(recipe("curriculum={name: PassRateBand, low: 0.9}"))
    with pytest.raises(ValueError, match="the nearest is 'ShuffledEpochs'"):
        build.check(recipe("curriculum=shuffled_epochs"))


def test_a_run_from_before_there_were_curricula_has_drawn_uniformly():
    """It resumes by its defaults, but for rows of a file, where one must say so."""

    def resume(*words: str, old: Recipe):
        config = yaml.safe_load(recipes.dump(old))
        del config["curriculum"]
        saved = build.config_of(old).parse(yaml.safe_dump(config))
        check_resumable(saved, build.config_of(recipe(*words)).values)

    resume(old=recipe())
    path = "data.path=rows.jsonl"
    with pytest.raises(ValueError, match="was 'Uniform' and is 'ShuffledEpochs'"):
        resume(path, old=recipe(path))
    resume(path, "curriculum=Uniform", old=recipe(path))


def test_a_mixture_joins_the_tasks_of_a_recipe():
    asked, tokenizer = recipe(*MIXED), text.load_tokenizer(SHIPPED)
    train, held_out, _ = tasks.build_environments(asked, tokenizer)
    assert train.tasks == {"gsm8k": 6, "sums": 65}
    assert held_out.tasks == {"gsm8k": 3, "sums": 2}
    assert build_curriculum(asked) == curriculum.Mixture({"gsm8k": 3, "sums": 1.0})
    states, _ = jax.vmap(train.problem)(jnp.array([0, 6]))
    np.testing.assert_array_equal(jax.vmap(train.horizon)(states), [40, 3])
    assert recipes.parse(Recipe(), recipes.dump(asked)) == asked


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.tasks=[{path: a}]"], "each with the key `task`. Received {'path'"),
        (["data.tasks=3"], "is a list of mappings"),
        (["data.tasks=[{task: addition}, {task: addition}]"], "of the name addition"),
        (["data.tasks=[{task: addition, rows: 1}]"], r"tasks\[0\]`, addition: .*rows"),
        (["data.tasks=[{task: additions}]"], r"tasks\[0\]`, additions: .*must be one"),
        ([], "`data.tasks` lists the tasks"),
        (["data.tasks=[{task: addition, weight: -1}]"], "`curriculum` is refused"),
        (
            ["data.tasks=[{task: addition, weight: 1}]", "curriculum=Learnability"],
            "Weights in `data.tasks`.*Received `curriculum: Learnability`",
        ),
    ],
)
def test_a_mixture_that_does_not_fit_is_refused(words, message):
    tokenizer = text.load_tokenizer(SHIPPED)
    with pytest.raises(ValueError, match=message):
        asked = recipe("data.task=mixture", *words)
        build.check(asked)
        tasks.build_environments(asked, tokenizer)


@pytest.mark.slow
def test_epochs_of_a_file_go_on_after_a_kill(settings, tmp_path, monkeypatch):
    """Three prompts a step of seven rows: each is asked once per epoch."""
    rows = word_problems(7, seed=3)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    words = settings(
        run__steps=5,
        run__eval_problems=0,
        rollout__prompts=3,
        rollout__group=2,
        log__completions=3,
        checkpoint__every=1,
        data__path=path,
        data__train_rows="null",
    )
    asked = recipes.load(Recipe(), None, words)
    training.train(asked, tmp_path / "full")

    def fail(_, number, metrics):
        del metrics
        if number == 3:
            raise RuntimeError("the lights go out")

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", fail)
        with pytest.raises(RuntimeError, match="lights"):
            training.train(asked, tmp_path / "run")
    training.train(asked, tmp_path / "run", resume=True)
    names = "completions.jsonl", "model/model.safetensors", "config.yaml"
    for name in names:
        expected = (tmp_path / "full" / name).read_bytes()
        assert (tmp_path / "run" / name).read_bytes() == expected, name
    lines = (tmp_path / "run" / "completions.jsonl").read_text().splitlines()
    prompts = [json.loads(line)["prompt"] for line in lines]
    assert len(prompts) == 15
    for first in (0, 7):
        assert len({*prompts[first : first + 7]}) == 7
    changed = dataclasses.replace(asked, curriculum="Uniform")
    with pytest.raises(ValueError, match="was 'ShuffledEpochs' and is 'Uniform'"):
        training.train(changed, tmp_path / "run", resume=True)
