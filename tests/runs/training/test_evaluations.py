"""Evaluations during a run: when, at what cost, and that they are those of checkpoints.

The run is one of `values`: a policy of bigrams that counts.
"""

import json
import os
import shutil
import signal

import jax
import jax.monitoring
import jax.numpy as jnp
import jax.random as jr
import pytest

from grpojax import fit, rollout
from grpojax.reward import HostReward, WeightedSum
from grpojax.runs import Checkpointing, Evaluation, Logging
from grpojax.runs.checkpoint.checkpoints import Checkpoints
from grpojax.runs.cli import evaluate as evaluating, train as training
from grpojax.runs.distributed.preemption import PreemptedError
from grpojax.runs.evaluation.evaluator import Evaluator
from grpojax.runs.recipe import build, load as recipes
from grpojax.runs.recipe.schema import Recipe

from ...envs.double import ByteTokenizer
from ...helpers import mostly_slow
from ..evaluation.test_evaluation import ParityEnv
from .values import Bigram, make_step, sevens, start


STEPS = 6


def parity() -> ParityEnv:
    return ParityEnv(
        prompts=jnp.arange(15, dtype=jnp.int32).reshape(3, 5) % 10,
        lengths=jnp.array([5, 3, 4], jnp.int32),
        end_tokens=jnp.array([1, 2], jnp.int32),
        size=3,
        vocab_size=10,
    )


def evaluations() -> dict[str, Evaluation]:
    judge = HostReward(sevens, repr, name="sevens")
    return {
        "held_out": Evaluation(parity(), samples=2, batch=2, every=2),
        "style": Evaluation(
            parity(),
            samples=3,
            sampler=rollout.Truncated(0.8, top_k=5, top_p=0.9),
            reward=WeightedSum({"sevens": 1.0, "half": -1.0}, judge),
            success="correct",
            every=3,
            at_start=False,
        ),
        "last": Evaluation(parity(), sampler=rollout.Greedy(), at_start=False),
    }


DUE = [
    *((0, "held_out"), (2, "held_out"), (3, "style"), (4, "held_out")),
    *((6, "held_out"), (6, "style"), (6, "last")),
]


def train(out, *, steps=STEPS, resume=False, checkpoint=None, trackers=None, **changes):
    return fit(
        start(),
        make_step(),
        steps=steps,
        out=out,
        resume=resume,
        evaluation=changes.pop("evaluation", evaluations()),
        checkpoint=checkpoint or Checkpointing(every=2, keep_last=9),
        trackers=trackers,
        logging=Logging(tokenizer=ByteTokenizer(), samples=0, **changes),
    )


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "full"
    return path, train(path)


def files(path) -> dict[str, bytes]:
    found = {"evaluations.jsonl": (path / "evaluations.jsonl").read_bytes()}
    return found | {x.name: x.read_bytes() for x in (path / "predictions").iterdir()}


def test_each_is_made_when_it_is_due_and_has_a_line(full):
    path, _ = full
    records = lines(path / "evaluations.jsonl")
    assert [(x["step"], x["name"]) for x in records] == DUE
    style = records[2]
    assert (style["top_k"], style["top_p"], style["temperature"]) == (5, 0.9, 0.8)
    assert {"accuracy", "metrics"} <= style.keys()
    names = {"pass@1", "pass@2", "pass@3", "mean@3", "maj@3", "reward"}
    components = {"rewards/sevens", "rewards/half", "rewards/correct"}
    assert style["metrics"].keys() == names | components
    assert style["metrics"]["rewards/half"]["value"] == 0.5
    assert "reward" not in records[0]["metrics"]
    assert {x.name for x in (path / "predictions").iterdir()} == {
        *(f"{step}-sampled.jsonl" for step in (0, 2, 4, 6)),
        *(f"{step}-style-sampled.jsonl" for step in (3, 6)),
        "6-last-greedy.jsonl",
    }


def test_an_evaluation_is_that_of_the_checkpoint_to_the_digit(full):
    path, _ = full
    records = lines(path / "evaluations.jsonl")
    with Checkpoints(path / "checkpoints") as saved:
        for record in records:
            if record["step"] % 2:
                continue
            like = start()
            if record["step"]:
                like = saved.restore(like, max_step=record["step"]).state
            result = evaluations()[record["name"]].run(
                like.policy, tokenizer=ByteTokenizer()
            )
            plain = json.loads(json.dumps(result.to_json()))
            assert plain == {key: record[key] for key in plain}


class Steps:
    """A tracker of three methods: it gets no evaluations."""

    def __init__(self, run):
        self.run, self.steps = run, []

    def log(self, step, metrics):
        assert "reward" in metrics
        self.steps.append(step)

    def table(self, name, step, rows):
        raise NotImplementedError

    def close(self):
        pass


class Everything(Steps):
    """One of four methods."""

    def __init__(self, run):
        super().__init__(run)
        self.measures, self.order = [], []

    def log(self, step, metrics):
        super().log(step, metrics)
        self.order.append(step)

    def evaluation(self, name, step, measures):
        self.measures.append((step, name, measures))
        self.order.append(step)


def test_trackers_get_the_measures_of_every_evaluation(tmp_path):
    """Those of a resumed run again, in the order of the steps, and then the others."""
    path, made = tmp_path / "run", []

    def keep(kind):
        return lambda run: made.append(kind(run)) or made[-1]

    trackers = {"steps": keep(Steps), "all": keep(Everything)}
    train(path, trackers=trackers)
    records = lines(path / "evaluations.jsonl")
    expected = [
        (
            x["step"],
            x["name"],
            {"accuracy": x["accuracy"]}
            | {name: measure["value"] for name, measure in x["metrics"].items()},
        )
        for x in records
    ]
    for kept in (6, 4):
        steps, everything = made[-2:]
        assert steps.steps == everything.steps == [*range(1, STEPS + 1)]
        assert everything.measures == expected
        assert everything.order == sorted(everything.order)
        known = {(x["name"], x["step"]) for x in records if x["step"] <= kept}
        if kept == 4:
            assert everything.run.evaluated == known
            break
        shutil.rmtree(path / "checkpoints" / "6")
        train(path, resume=True, trackers=trackers)
    warned = [x for x in lines(path / "events.jsonl") if x["kind"] == "warning"]
    assert not [x for x in warned if "disabled" in x["message"]]


def test_it_compiles_once():
    """Neither traced nor compiled again for another policy of the same shapes."""
    traces, compiled = 0, []

    class Counting(rollout.Categorical):
        def __call__(self, logits, *, key):
            nonlocal traces
            traces += 1
            return super().__call__(logits, key=key)

    def listen(event: str, *_: object, **__: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    for judged in (False, True):
        judge = HostReward(sevens, repr, name="sevens")
        evaluation = Evaluation(
            parity(),
            sampler=Counting(),
            reward=WeightedSum({"sevens": 1.0}, judge) if judged else None,
        )
        policies = [Bigram(jr.normal(jr.key(i), (10, 10))) for i in range(3)]
        evaluator = Evaluator(evaluation, policies[0])
        evaluator.run(policies[0])
        assert traces > 0
        traces = 0
        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            for policy in policies[1:]:
                evaluator.run(policy)
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)
        assert traces == 0 and compiled == []


@pytest.mark.parametrize("step", mostly_slow([1, 2, 3, 4, 6], [1, 4, 6]))
def test_a_run_that_ended_anywhere_has_the_same_evaluations(full, step, tmp_path):
    """Cut after the checkpoint of a step, or within an evaluation after it."""
    path, expected = full
    copy = shutil.copytree(path, tmp_path / "run")
    kept = step - step % 2
    for name in (copy / "checkpoints").iterdir():
        if int(name.name) > kept:
            shutil.rmtree(name)
    records = lines(copy / "evaluations.jsonl")
    early = [x for x in records if x["step"] < step]
    text = "".join(json.dumps(x) + "\n" for x in early)
    (copy / "evaluations.jsonl").write_text(text + '{"step": 9, "na')
    halved = copy / "predictions" / "6-style-sampled.jsonl"
    halved.write_bytes(halved.read_bytes()[:-40])
    again = train(copy, resume=True)
    assert jnp.array_equal(again.policy.table, expected.policy.table)
    assert files(copy) == files(path)


def test_a_signal_during_an_evaluation_saves_the_step(full, tmp_path, monkeypatch):
    path, expected = full
    run = Evaluator.run

    def interrupted(self, policy, *, report, **settings):
        if self.evaluation.every == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return run(self, policy, report=report, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "run", interrupted)
        with pytest.raises(PreemptedError):
            train(tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "3").is_dir()
    again = train(tmp_path / "run", resume=True)
    assert jnp.array_equal(again.policy.table, expected.policy.table)
    assert files(tmp_path / "run") == files(path)


@pytest.mark.parametrize(
    "measure",
    mostly_slow(["style", "style.rewards/sevens", "style.pass@2"], ["style.pass@2"]),
)
def test_the_best_checkpoints_are_those_of_an_evaluation(measure, tmp_path):
    few = {"style": evaluations()["style"]}
    keep = Checkpointing(every=4, keep_last=1, keep_best=1, best_by=measure)
    train(tmp_path / "run", steps=9, evaluation=few, checkpoint=keep)
    records = lines(tmp_path / "run" / "evaluations.jsonl")
    name = measure.partition(".")[2] or "accuracy"
    value_of = lambda x: x.get(name, x["metrics"].get(name, {}).get("value"))
    values = {x["step"]: value_of(x) for x in records}
    assert list(values) == [3, 6, 9]
    best = max((3, 6), key=lambda step: (values[step], step))
    kept = sorted(int(x.name) for x in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == [best, 9]


@pytest.mark.parametrize(
    ("best_by", "message"),
    [
        ("math", "'math' is none of held_out, style, last"),
        ("last", "'last' is never made during the run: set its `every`"),
        ("held_out.pass@8", "has accuracy, pass@1, pass@2, mean@2, maj@2. Received"),
        ("held_out.reward", "has accuracy, pass@1, pass@2, mean@2, maj@2. Received"),
    ],
)
def test_what_cannot_be_the_best_is_refused(best_by, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", checkpoint=Checkpointing(keep_best=1, best_by=best_by))
    assert not (tmp_path / "run").exists()


def test_names_that_no_file_can_have_are_refused(tmp_path):
    with pytest.raises(ValueError, match="letters, digits, _ and -. Received 'a/b'"):
        train(tmp_path / "run", evaluation={"a/b": evaluations()["last"]})


@pytest.fixture(scope="module")
def recipe(settings):
    words = [
        "evaluations.held_out={samples: 2, every: 1, top_k: 20, top_p: 0.95}",
        "evaluations.train={split: train, problems: 3, temperature: 0}",
        "evaluations.train.at_start=false",
        "evaluations.other={data: {path: word-problems, train_rows: 7}, split: train}",
        "evaluations.other.reward={weights: {correct: 1, brief: 0.5}, "
        "terms: [tests.runs.recipe.user_parts:brief]}",
        "evaluations.same.reward=run",
        "checkpoint={every: 1, keep_best: 1, best_by: held_out.pass@2}",
    ]
    return recipes.load(Recipe(), None, [*settings(), *words])


@pytest.mark.slow
def test_a_recipe_names_evaluations(recipe, tmp_path):
    """Their data, samplers and rewards; and a model directory gives the same digits."""
    path = tmp_path / "run"
    training.train(recipe, path)
    records = lines(path / "evaluations.jsonl")
    assert [(x["step"], x["name"]) for x in records] == [
        *((0, "held_out"), (0, "other"), (0, "same"), (1, "held_out")),
        *((2, "held_out"), (2, "train"), (2, "other"), (2, "same")),
    ]
    by_name = {x["name"]: x for x in records}
    assert by_name["held_out"]["top_k"] == 20 and by_name["train"]["mode"] == "greedy"
    assert by_name["train"]["problems"] == 3 and by_name["other"]["problems"] == 7
    assert "rewards/brief" in by_name["other"]["metrics"]
    assert by_name["same"]["metrics"]["reward"]["value"] >= 0
    # The model's directory, and the checkpoint of a step in between.
    last = [(path / "model", by_name[name]) for name in ("held_out", "other")]
    for model, record in [*last, (path / "checkpoints" / "1", records[3])]:
        found = recipes.load(recipe, None, [f"model.path={model}"])
        result = evaluating.evaluate(found, name=record["name"])
        plain = json.loads(json.dumps(result.to_json()))
        assert plain == {key: record[key] for key in plain}


def test_evaluations_of_a_recipe_are_built(recipe):
    """As they are written; how a run makes them is tested above, with `values`."""
    made = build.build(recipe)
    found = made["evaluation"]
    assert [*found] == ["held_out", "train", "other", "same"]
    held_out, train, other, same = found.values()
    assert (held_out.samples, held_out.every, held_out.sampler.top_k) == (2, 1, 20)
    assert isinstance(train.sampler, rollout.Greedy) and not train.at_start
    assert (train.problems, train.split, train.every) == (3, "train", None)
    assert other.env.size == 7 and same.env is held_out.env
    assert [x.reward is None for x in found.values()] == [True, True, False, False]
    assert made["checkpoint"].best_by == "held_out.pass@2"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("evaluations.held_out={temperature: 0, top_k: 3}", "truncates nothing"),
        ("evaluations.held_out.top_p=1.5", r"`evaluations.held_out` is refused.*top_p"),
        ("evaluations.held_out.reward=3", "run for those that are trained on"),
        (
            "evaluations.x.reward={weigths: {correct: 1}}",
            "x.reward.weigths",
        ),
        ("evaluations.x.reward={terms: [Brif]}", "must be a name that grpojax.reward"),
        ("evaluations.x.data={pth: y}", "data.pth"),
        ("evaluations.x.data=y", "is a mapping with some of the keys of `data`"),
        ("evaluations.x.data={task: z}", "`data.task` must be one of"),
        ("rollout.sampler={name: Truncated, top_k: 3}", "truncate in evaluations"),
    ],
)
def test_a_recipe_of_evaluations_that_cannot_be_is_refused(settings, word, message):
    with pytest.raises(ValueError, match=message):
        training.prepare(recipes.load(Recipe(), None, [*settings(), word]))
