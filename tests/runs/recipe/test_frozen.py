"""Teachers and judges of a recipe: their tokenizers, two steps, and a mesh."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from grpojax import models, text
from grpojax.policy import log_prob
from grpojax.runs.cli import evaluate as evaluating, train as training
from grpojax.runs.recipe import build, load as recipes
from grpojax.runs.recipe.frozen.load import check_same_tokenizer
from grpojax.runs.recipe.schema import Recipe

from ..conftest import SHIPPED


DISTILL = ["algorithm.advantage=zero", "algorithm.penalties=[Distill]"]
TEACHER = ["teacher.path=gsm8k-tiny", *DISTILL]
TEMPLATE = "{{ prompt }}{{ completion }} Right?"
JUDGE = [
    "reward.terms=[{name: frozen_judge, path: gsm8k-tiny, "
    f"template: '{TEMPLATE}', answer: 'yes', against: 'no', weight: 1.0}}]",
]


def recipe(settings, *words, **changes) -> Recipe:
    return recipes.load(Recipe(), None, [*settings(**changes), *words])


@pytest.mark.slow
def test_a_teacher_that_is_larger_and_a_judge_train_two_steps(settings, tmp_path):
    words = [*TEACHER, *JUDGE, "teacher.bits=8", "evaluations.held_out.problems=4"]
    built = build.build(recipe(settings, *words))
    assert built["step"].teacher.config.hidden_size == 128
    assert built["state"].policy.config.hidden_size == 16
    training.train(recipe(settings, *words), tmp_path / "run")
    rows = [
        json.loads(x)
        for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert all(np.isfinite(x["loss"]) and x["teacher/kl"] > 0 for x in rows)
    assert all(0 < x["rewards/judge/mean"] < 1 for x in rows)


@pytest.mark.slow
def test_the_judge_of_an_evaluation_says_what_one_on_the_host_says(settings):
    terms = JUDGE[0].removeprefix("reward.terms=")
    more = [
        f"evaluations.judged={{reward: {{weights: {{correct: 0}}, terms: {terms}}}, "
        "problems: 4}",
    ]
    judged = recipe(settings, *more)
    result = evaluating.evaluate(judged, name="judged")
    tokenizer = text.load_tokenizer(SHIPPED)
    judge = models.load(SHIPPED, dtype="float32")
    made = build.build(judged)["evaluation"]["judged"]
    question = [tokenizer.encode(x) for x in (" Right?", "yes", "no")]
    for number, row in enumerate(result.tokens):
        prompt = made.env.problem(jnp.asarray(number))[1]
        said = [int(x) for x in row[0][: result.lengths[number, 0]]]
        said = [x for x in said if x not in tokenizer.end_tokens]
        asked = [*prompt.tokens[: prompt.length].tolist(), *said, *question[0]]
        nats = []
        for answer in question[1:]:
            found = log_prob(judge, jnp.array(asked), jnp.array(answer))
            nats.append(float(found.sum()))
        wanted = 1 / (1 + np.exp(nats[1] - nats[0]))
        assert result.rewards["judge"][number, 0] == pytest.approx(wanted, abs=1e-5)


def test_one_tokenizer_is_needed():
    tokenizer = text.load_tokenizer(SHIPPED)
    check_same_tokenizer("teacher.path", "x", tokenizer, tokenizer)
    swapped = text.load_tokenizer(SHIPPED)
    pieces = swapped.pieces_as_bytes()
    pieces[300], pieces[301] = pieces[301], pieces[300]
    swapped.pieces_as_bytes = lambda: pieces
    piece = tokenizer.piece
    swapped.piece = lambda i: piece({300: 301, 301: 300}.get(i, i))
    with pytest.raises(ValueError, match=r"`teacher\.path`.*the token 300: "):
        check_same_tokenizer("teacher.path", "x", tokenizer, swapped)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (DISTILL, "set.*`teacher.path`|`teacher.path` in a recipe"),
        (TEACHER[:1], "names whom the penalty Distill learns from"),
    ],
)
def test_a_teacher_and_its_penalty_come_together(settings, words, message):
    with pytest.raises(ValueError, match=message):
        build.check(recipe(settings, *words))


@pytest.mark.slow
def test_a_mesh_takes_the_same_steps(settings, tmp_path):
    mesh = {"mesh__fsdp": 2, "mesh__tensor": 2}
    words = [*TEACHER, *JUDGE, "optimizer.name=sgd"]
    training.train(recipe(settings, *words), tmp_path / "one")
    training.train(recipe(settings, *words, **mesh), tmp_path / "many")
    read = lambda x: [
        json.loads(line)
        for line in (tmp_path / x / "metrics.jsonl").read_text().splitlines()
    ]
    for one, many in zip(read("one"), read("many"), strict=True):
        for name in ("loss", "teacher/kl", "rewards/judge/mean"):
            assert one[name] == pytest.approx(many[name], rel=1e-3, abs=1e-5)
