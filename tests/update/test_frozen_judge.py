"""A judge in the program says what it says on the host."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grpojax import policy as policies, sharding
from grpojax.text import load_tokenizer
from grpojax.types import Prompt
from grpojax.update import FrozenJudge

from ..envs.double import ByteTokenizer
from ..helpers import transformer
from ..runs.conftest import SHIPPED
from .doubles import bigram, random_trajectory


BEFORE, BETWEEN, AFTER = (7, 3), (4,), (9, 9, 1)
PIECES = (BEFORE, "prompt", BETWEEN, "completion", AFTER)
END = 2


def judged(**changes: Any) -> FrozenJudge:
    settings: dict[str, Any] = dict(pieces=PIECES, answers=((5,),), ends=(END,))
    return FrozenJudge(transformer(sharpen=5.0), **{**settings, **changes})


def rows(prompts: int = 4, group: int = 4):
    """Prompts of several lengths; rows that ended, that were cut, and an empty one."""
    found = random_trajectory(bigram(vocab=12), prompts, group)
    lengths = found.lengths
    last = jnp.arange(7) == lengths[..., None] - 1
    terminated = jnp.arange(lengths.size).reshape(lengths.shape) % 2 == 0
    tokens = jnp.where(last & terminated[..., None], END, found.tokens)
    width = found.prompt.tokens.shape[1]
    prompt = Prompt(found.prompt.tokens, jnp.minimum(jnp.arange(prompts) + 1, width))
    assert not lengths.all()
    return dataclasses.replace(
        found, tokens=tokens, terminated=terminated, prompt=prompt, vocab_size=None
    )


def on_the_host(judge, trajectory):
    """The judge asked one row at a time, in lists of Python, without padding."""
    said = np.zeros(trajectory.terminated.shape)
    for i, j in np.ndindex(*said.shape):
        prompt = trajectory.prompt.tokens[i, : trajectory.prompt.length[i]].tolist()
        tokens = trajectory.tokens[i, j][trajectory.sampled[i, j]].tolist()
        if trajectory.terminated[i, j] and tokens[-1:] == [END]:
            tokens = tokens[:-1]
        text = {"prompt": prompt, "completion": tokens}
        asked = []
        for piece in judge.pieces:
            asked += text[piece] if isinstance(piece, str) else list(piece)
        weights = []
        for answer in judge.answers:
            logits = policies.logits(judge.policy, jnp.array([*asked, *answer]))
            logits = np.asarray(logits, np.float64)[len(asked) - 1 : -1]
            nats = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
            weights.append(np.exp(sum(x[y] for x, y in zip(nats, answer, strict=True))))
        said[i, j] = weights[0] / (sum(weights) if len(weights) > 1 else 1)
    return said


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"answers": ((5, 6), (8,))}, marks=pytest.mark.slow),
        pytest.param(
            {"pieces": ("completion", AFTER), "tokens": 3}, marks=pytest.mark.slow
        ),
    ],
    ids=["yes", "yes and no, of two tokens and one", "small microbatches"],
)
def test_the_program_says_what_the_host_says(changes):
    judge, trajectory = judged(**changes), rows(2, 3)
    found = eqx.filter_jit(judge)(trajectory)
    wanted = on_the_host(judge, trajectory)
    assert np.ptp(wanted) > 1e-3
    np.testing.assert_allclose(found.total, wanted, atol=1e-5, rtol=0)
    assert list(found.components) == ["judge"]


@pytest.mark.slow
def test_a_mesh_says_the_same():
    judge, trajectory = judged(), rows()
    mesh = sharding.make_mesh(data=2, fsdp=2, devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        found = eqx.filter_jit(sharding.place(judge, mesh))(trajectory)
        found = np.asarray(found.total)
    np.testing.assert_allclose(found, judge(trajectory).total, atol=1e-5)


def test_a_template_becomes_tokens_around_those_of_the_row():
    tokenizer = load_tokenizer(SHIPPED)
    template = "Q: {{ prompt }} A: {{completion}} Right?"
    judge = FrozenJudge.of(
        transformer(), tokenizer, template, answer="yes", against="no"
    )
    texts = [tokenizer.encode(x) for x in ("Q: ", " A: ", " Right?")]
    holes = "prompt", "completion"
    assert judge.pieces == (
        tuple(texts[0]), holes[0], tuple(texts[1]), holes[1], tuple(texts[2])
    )  # fmt: skip
    assert judge.answers == (
        tuple(tokenizer.encode("yes")), tuple(tokenizer.encode("no"))
    )  # fmt: skip
    assert judge.ends == tokenizer.end_tokens


@pytest.mark.parametrize("template", ["Right?", "{{ completion }} {{ answer }}"])
def test_a_template_without_the_completion_is_refused(template):
    with pytest.raises(ValueError, match="has `{{ completion }}` in it"):
        FrozenJudge.of(transformer(), ByteTokenizer(), template)


def test_answers_without_tokens_are_refused():
    with pytest.raises(ValueError, match="at least one token"):
        judged(answers=((),))
    with pytest.raises(ValueError, match="tokens must be a positive integer"):
        judged(tokens=0)
