import dataclasses
import json
import math
import subprocess
import sys
import typing
from importlib import resources
from pathlib import Path

import equinox as eqx
import gsm8k
import gsm8k_parts
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from grpojax import algorithms, models, reward, text, Trajectory
from grpojax.runs import recipes
from grpojax.types import Prompt


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHIPPED = resources.files("grpojax") / "assets" / "gsm8k-tiny"


def write_model(path: Path, vocab_size: int) -> Path:
    """A random model that is smaller still, with the tokenizer that is shipped."""
    config = models.TransformerConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        tied=True,
    )
    models.save(models.Transformer(config, key=jr.key(0)), path)
    text.load_tokenizer(SHIPPED).save(path)
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    vocab_size = text.load_tokenizer(SHIPPED).vocab_size
    return write_model(tmp_path_factory.mktemp("model"), vocab_size)


@pytest.fixture
def arguments(model):
    settings = {
        "model.path": model,
        "data.train_rows": 20,
        "run.eval_problems": 5,
        "run.steps": 2,
        "rollout.prompts": 2,
        "rollout.group": 4,
        "rollout.max_new_tokens": 6,
    }

    def build(**changes) -> list[str]:
        dotted = {key.replace("__", "."): value for key, value in changes.items()}
        pairs = [f"{key}={value}" for key, value in {**settings, **dotted}.items()]
        return [argument for pair in pairs for argument in ("--set", pair)]

    return build


def refusal(argv) -> str:
    with pytest.raises(SystemExit) as caught:
        gsm8k.main(argv)
    return str(caught.value)


def write_rows(path: Path, count: int) -> Path:
    rows = (
        {"question": f"What is {n} and 1?", "answer": f"{n}+1={n + 1}\n#### {n + 1}"}
        for n in range(count)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# Recipes


@pytest.mark.parametrize("path", sorted((EXAMPLES / "recipes").glob("*.yaml")))
def test_recipes_load_and_round_trip(path, tmp_path):
    recipe = recipes.load(gsm8k.Recipe(), path)
    again = tmp_path / "again.yaml"
    again.write_text(recipes.dump(recipe))
    assert recipes.load(gsm8k.Recipe(), again) == recipe


def test_the_default_recipe_is_the_default():
    path = EXAMPLES / "recipes" / "gsm8k-tiny.yaml"
    assert recipes.load(gsm8k.Recipe(), path) == gsm8k.Recipe()
    spelled_out = [line for line in path.read_text().splitlines() if line[0] != "#"]
    assert spelled_out == recipes.dump(gsm8k.Recipe()).splitlines()


def test_the_recipe_is_printed_without_jax():
    blocked = "import sys; sys.modules['jax'] = None; import gsm8k; gsm8k.main()"
    done = subprocess.run(
        [sys.executable, "-c", blocked, "--print-config", "--set", "run.steps=0"],
        cwd=EXAMPLES,
        env={"PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == recipes.dump(
        dataclasses.replace(gsm8k.Recipe(), run=gsm8k.Run(steps=0))
    )


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["optimizer.learning_rte=1"], "nearest is `optimizer.learning_rate`"),
        (["run.steps=many"], "`run.steps` must be an integer. Received 'many'"),
        (["run.steps=-1"], "`run.steps` must be at least 0. Received -1"),
        (["rollout.group=0"], "`rollout.group` must be at least 1. Received 0"),
        (["rollout.slots=0"], "`rollout.slots` must be at least 1. Received 0"),
        (["rollout.temperature=0"], "`rollout.temperature` must be positive"),
        (["optimizer.clip_norm=0"], "`optimizer.clip_norm` must be positive"),
        (["data.train_rows=0"], "`data.train_rows` must be at least 1. Received 0"),
        (["algorithm.beta=-1"], "`algorithm.beta` must be at least 0. Received -1.0"),
        (["algorithm.name=ppo"], "`algorithm.name` must be one of 'grpo', 'dr_grpo', "),
        (["reward.shuffle=true", "rollout.prompts=1"], "needs two prompts"),
        (["data.task=addition", "data.shots=3"], "Received shots: leave them out"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(assignments, message):
    argv = [argument for pair in assignments for argument in ("--set", pair)]
    assert message in refusal(argv)


def test_a_missing_recipe_is_named(tmp_path):
    assert "There is none at" in refusal(["--config", str(tmp_path / "no.yaml")])


# Runs


def test_a_run_leaves_all_that_it_should(arguments, tmp_path, capsys):
    finished = tmp_path / "run"
    gsm8k.main([*arguments(), "--out", str(finished)])
    printed = capsys.readouterr().out
    for said in (
        "20 training problems, 5 held out",
        "compiled the step in",
        "step 2/2",
    ):
        assert said in printed
    for when in ("before", "after"):
        assert f"held-out accuracy {when}: " in printed
    assert printed.count("the answer is") == 4

    recipe = recipes.load(gsm8k.Recipe(), finished / "config.yaml")
    assert recipe.run.steps == 2 and recipe.rollout.max_new_tokens == 6
    assert recipe.reward == gsm8k.Reward()

    summary = json.loads((finished / "summary.json").read_text())
    for when in ("before", "after"):
        low, high = summary.pop(f"ci95_{when}")
        assert 0 <= low <= summary.pop(f"accuracy_{when}") <= high <= 1
    assert summary.pop("seconds_total") > summary.pop("seconds_compile") > 0
    assert summary == {"n_eval": 5, "steps": 2, "complete": True}

    lines = (finished / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["step"] for record in records] == [1, 2]
    assert 0 < records[0]["time"] < records[1]["time"]
    assert set(records[0]) >= {
        "step_time",
        "reward",
        "reward_std",
        "frac_reward_zero_std",
        "rewards/correct/mean",
        "rewards/format/mean",
        "completions/mean_length",
        "completions/clipped_ratio",
        "num_tokens",
        "loss",
        "entropy",
        "grad_norm",
    }
    assert (finished / "curve.png").read_bytes().startswith(b"\x89PNG")
    policy = models.load(finished / "model")
    assert policy.vocab_size == text.load_tokenizer(finished / "model").vocab_size


def test_a_run_is_never_overwritten(arguments, tmp_path):
    (tmp_path / "summary.json").write_text("precious")
    message = refusal([*arguments(), "--out", str(tmp_path)])
    assert "holds summary.json already: choose another directory" in message
    assert (tmp_path / "summary.json").read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


def test_no_steps_only_measure(arguments, tmp_path, model, capsys):
    gsm8k.main([*arguments(run__steps=0), "--out", str(tmp_path / "run")])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 0 and summary["complete"]
    assert summary["accuracy_before"] == summary["accuracy_after"]
    assert "compiled the step" not in capsys.readouterr().out
    for kept in ("embedding", "norm"):
        read = lambda path, kept=kept: vars(models.load(path))[kept]
        assert jnp.array_equal(read(model), read(tmp_path / "run" / "model"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollout__group": 1}, "a group of one has no baseline"),
        ({"update__microbatches": 5}, "microbatches must divide"),
        ({"model__path": "nowhere"}, "nowhere"),
        ({"data__path": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"data__max_prompt_length": 3}, "A prompt must fit max_prompt_length=3"),
        ({"data__chat": "true"}, "chat needs a chat template"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    arguments, changes, message, tmp_path
):
    assert message in refusal([*arguments(**changes), "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_that_is_too_large_is_refused(arguments, tmp_path):
    path = write_model(tmp_path / "model", vocab_size=100)
    message = refusal(arguments(model__path=path))
    assert "must not be larger than the policy's vocabulary" in message


# Parts


def recipe(*assignments: str) -> gsm8k.Recipe:
    return recipes.load(gsm8k.Recipe(), None, assignments)


def test_a_file_is_cut_in_two(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", 10)
    split = gsm8k_parts.load_split(recipe(f"data.path={path}", "run.eval_problems=3"))
    number = lambda row: int(row["question"].split()[2])
    assert [number(row) for row in split.held_out] == [0, 1, 2]
    assert [number(row) for row in split.train] == [3, 4, 5, 6, 7, 8, 9]
    some = gsm8k_parts.load_split(
        recipe(f"data.path={path}", "run.eval_problems=3", "data.train_rows=2")
    )
    assert [number(row) for row in some.train] == [3, 4]
    for problems in ("10", "null"):
        with pytest.raises(ValueError, match="has 10 good rows"):
            gsm8k_parts.load_split(
                recipe(f"data.path={path}", f"run.eval_problems={problems}")
            )


def test_what_is_held_out_is_not_trained_on(tmp_path):
    train = write_rows(tmp_path / "train.jsonl", 10)
    test = write_rows(tmp_path / "test.jsonl", 4)
    split = gsm8k_parts.load_split(
        recipe(f"data.path={train}", f"data.eval_path={test}", "run.eval_problems=null")
    )
    asked = {row["question"] for row in split.held_out}
    assert len(asked) == 4 and len(split.train) == 6
    assert not asked & {row["question"] for row in split.train}
    folder = gsm8k_parts.load_split(
        recipe(f"data.path={tmp_path}", "run.eval_problems=2")
    )
    assert len(folder.held_out) == 2 and len(folder.train) == 8
    with pytest.raises(ValueError, match="`run.eval_problems` asks for 5 rows. Receiv"):
        gsm8k_parts.load_split(recipe(f"data.path={tmp_path}", "run.eval_problems=5"))
    with pytest.raises(ValueError, match="`data.train_rows` asks for 11 rows"):
        gsm8k_parts.load_split(
            recipe(f"data.path={tmp_path}", "data.train_rows=11", "run.eval_problems=0")
        )


def test_bad_rows_are_refused_by_number_or_counted(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", 10)
    with path.open("a") as file:
        file.write('{"question": "Why?", "answer": "Because."}\n')
    settings = (f"data.path={path}", "run.eval_problems=2")
    with pytest.raises(ValueError, match="line 11"):
        gsm8k_parts.load_split(recipe(*settings))
    split = gsm8k_parts.load_split(recipe(*settings, "data.bad_rows=skip"))
    assert split.skipped == 1 and len(split.train) == 8


def trajectory(prompts: int, group: int) -> Trajectory:
    shape = (prompts, group, 2)
    paid = jnp.arange(prompts * group, dtype=jnp.float32).reshape(prompts, group)
    return Trajectory(
        prompt=Prompt(jnp.zeros((prompts, 3), jnp.int32), jnp.ones(prompts, jnp.int32)),
        tokens=jnp.zeros(shape, jnp.int32),
        sampled=jnp.ones(shape, bool),
        log_prob=jnp.zeros(shape),
        version=jnp.zeros(shape, jnp.int32),
        terminated=paid % 2 == 0,
        rewards={"correct": paid, "format": jnp.ones_like(paid)},
    )


def test_reward_settings():
    made = trajectory(3, 2)
    total = lambda *settings: gsm8k_parts.build_reward(recipe(*settings))(
        made
    ).total.tolist()
    assert total("reward.format=0.5") == [[0.5, 1.5], [2.5, 3.5], [4.5, 5.5]]
    assert total("reward.truncated=zero") == [[0, 0], [2, 0], [4, 0]]
    dropped = gsm8k_parts.build_reward(recipe("reward.truncated=drop"))(made)
    assert dropped.keep.tolist() == [[True, False]] * 3


def test_the_control_gives_every_row_what_another_prompt_earned():
    made = trajectory(4, 2)
    plain, control = (
        gsm8k_parts.build_reward(recipe(f"reward.shuffle={flag}"))(made).total
        for flag in ("false", "true")
    )
    assert sorted(control.ravel().tolist()) == sorted(plain.ravel().tolist())
    for prompt in range(4):
        assert not set(control[prompt].tolist()) & set(plain[prompt].tolist())
    weighed = reward.weighted_sum({"correct": 1.0, "format": 0.0})(made)
    assert jnp.array_equal(plain, weighed.total)


def test_every_algorithm_of_the_library_has_a_name_and_keeps_its_numbers():
    named = typing.get_args(typing.get_type_hints(gsm8k.Algorithm)["name"])
    assert set(named) == set(gsm8k_parts.ALGORITHMS)
    for name, build in gsm8k_parts.ALGORITHMS.items():
        made = gsm8k_parts.build_algorithm(recipe(f"algorithm.name={name}"))
        assert eqx.tree_equal(made, build(), typematch=True)
    made = gsm8k_parts.build_algorithm(
        recipe("algorithm.name=dapo", "algorithm.low=0", "algorithm.high=0.5")
    )
    assert eqx.tree_equal(made, algorithms.dapo(low=0.0, high=0.5), typematch=True)


@pytest.mark.parametrize(
    ("name", "has"), [("dapo", "low, high"), ("rloo", "none"), ("cispo", "cap, floor")]
)
def test_a_number_that_an_algorithm_has_not_is_refused(name, has):
    with pytest.raises(ValueError, match=f"number of {name}, which has {has}. Receive"):
        gsm8k_parts.build_algorithm(
            recipe(f"algorithm.name={name}", "algorithm.beta=1")
        )


def test_schedules_count_optimizer_updates():
    settings = ["run.steps=4", "update.epochs=2", "optimizer.learning_rate=1"]

    def rates(*more: str) -> list[float]:
        """Of AdamW, whose update of a constant gradient is the learning rate."""
        optimizer = gsm8k_parts.build_optimizer(recipe(*settings, *more))
        weight, gradient = jnp.ones(()), jnp.asarray(0.5)
        state, seen = optimizer.init(weight), []
        for _ in range(8):
            update, state = optimizer.update(gradient, state, weight)
            seen.append(-float(update))
        return seen

    close = lambda expected: pytest.approx(expected, abs=1e-4)
    assert rates() == close([1.0] * 8)
    linear = rates("optimizer.schedule=linear")
    assert linear == close([1 - count / 8 for count in range(8)])
    warm = rates("optimizer.schedule=linear", "optimizer.warmup_updates=4")
    assert warm == close([0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25])
    cosine = rates("optimizer.schedule=cosine")
    halves = [(1 + math.cos(math.pi * count / 8)) / 2 for count in range(8)]
    assert cosine == close(halves)
    assert np.all(np.diff(cosine) < 0)
