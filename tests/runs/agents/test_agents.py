"""Agents over HTTP: what they sample is recorded exactly, and their failures count."""

import asyncio
import itertools
import json
import urllib.error
import urllib.request

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest


pytest.importorskip("uvicorn", reason="needs the extra `serve`")

import grpojax  # noqa: E402
from grpojax import rollout, runs, sharding, update  # noqa: E402
from grpojax.runs.agents.environment import AgentEnvironment  # noqa: E402
from grpojax.runs.serve.rows import sampler_of, Sampling  # noqa: E402

from ...helpers import mostly_slow, transformer  # noqa: E402
from ...host.doubles import bigram, numbers, TOKENIZER  # noqa: E402


def post(base_url, path="completions", **body):
    """A request, as any HTTP client makes it."""
    request = urllib.request.Request(
        f"{base_url}/{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())


def complete(base_url, prompt, **more):
    (choice,) = post(base_url, prompt=prompt, **more)["choices"]
    return choice["text"]


REPLY = " More: "


def twice(row, base_url):
    """Asks, replies and asks again; early last letters pay."""
    text = f"{row['number'] + 1}"
    paid = 0.0
    for _ in range(2):
        said = complete(base_url, text)
        text += said + REPLY
        paid += said[-1:] < "n"
    return paid


def served(agent=twice, **options):
    return AgentEnvironment(numbers(), agent, TOKENIZER, max_prompt=12, **options)


def sampled(env, *, prompts=4, key=1, policy=None, **more):
    config = grpojax.RolloutConfig(prompts=prompts, group=2, slots=3)
    policy = policy or bigram()
    return rollout.generate(policy, env, config, version=5, key=jr.key(key), **more)


@pytest.mark.laws
@pytest.mark.parametrize("context", mostly_slow([False, True], [False]))
def test_tokens_and_log_probs_are_those_of_scoring_the_conversation(context):
    policy = transformer(vocab_size=TOKENIZER.vocab_size) if context else bigram()
    seen = {}

    def agent(row, base_url):
        said = [complete(base_url, f"{row['number'] + 1}", max_tokens=9)]
        asked = f"{row['number'] + 1}{said[0]}{REPLY}"
        said.append(complete(base_url, asked))
        seen.setdefault(row["number"], []).append(asked + said[1])
        return 1.0

    found = sampled(served(agent), policy=policy, problems=jnp.arange(4))
    assert not found.dropped.any()
    own = np.asarray(found.sampled)
    assert (np.asarray(found.version) == np.where(own, 5, -1)).all()
    sizes = {"vocab_size": TOKENIZER.vocab_size}
    scored, _ = update.log_probs(policy, found.prompt, found.tokens, **sizes)
    np.testing.assert_allclose(found.log_prob, np.where(own, scored, 0), atol=1e-5)
    for p in range(4):
        # A prompt, two turns, and the reply between them.
        texts = [text_of(found, p, g) for g in range(2)]
        assert {x.rstrip("\0") for x in texts} == {*seen[p]}
        turns = own[p] & ~np.pad(own[p], ((0, 0), (1, 0)))[:, :-1]
        assert (turns.sum(axis=1) == 2).all()
    np.testing.assert_array_equal(found.prompt.length, 1)
    # Rows of a group have keys of their own, and so have the calls of a row.
    tokens = np.asarray(found.tokens)
    assert (tokens[:, 0] != tokens[:, 1]).any(axis=-1).all()
    again = sampled(served(agent), policy=policy, problems=jnp.arange(4))
    np.testing.assert_array_equal(again.tokens, tokens)


def text_of(found, p, g):
    length = int(np.flatnonzero(found.sampled[p, g]).max()) + 1
    prompt = np.asarray(found.prompt.tokens[p, : int(found.prompt.length[p])])
    return TOKENIZER.decode([*prompt, *np.asarray(found.tokens[p, g, :length])])


firsts = itertools.cycle("12")


async def fails(row, base_url):
    """Does what its row says."""
    number = row["number"]
    if number == 0:
        return None
    if number == 1:
        raise RuntimeError("broken \ud800")
    if number == 2:
        await asyncio.sleep(20)
    first = next(firsts) if number == 3 else "1"
    ask = lambda *x, **more: asyncio.to_thread(complete, base_url, *x, **more)
    if number == 7:  # Without an end: it is told when there is no room.
        text = "7"
        while True:
            text += await ask(text) + REPLY
    said = await ask(f"{first}{number}", max_tokens=3)
    if number == 4:
        await asyncio.to_thread(post, base_url, "reward", reward=0.25)
        await asyncio.to_thread(post, base_url, "reward", reward=0.5)
        return None
    if number == 5:
        return "much"
    if number == 6:
        await ask("26")  # It does not continue.
    return len(said) > 0


def test_what_fails_costs_its_row_alone(caplog):
    env = served(fails, seconds=2.0)
    config = grpojax.RolloutConfig(prompts=8, group=2, slots=3)
    with caplog.at_level("WARNING"):
        found = rollout.generate(
            bigram(), env, config, problems=jnp.arange(8), key=jr.key(0)
        )
    errors, rejected = (found.counts[x].astype(bool) for x in ("errors", "rejected"))
    assert rejected.all(axis=1).tolist() == [False] * 8
    assert errors.all(axis=1).tolist() == [
        *(True, True, True, False),
        *(False, True, True, False),
    ]
    assert errors[3].sum() == 1  # The other row of its problem begins otherwise.
    assert "failed on 11 of 16 rows" in caplog.text
    np.testing.assert_allclose(found.rewards["environment"][4], 0.75)
    assert not found.terminated[7].any()
    np.testing.assert_array_equal(found.rewards["environment"][7], 0.0)
    assert int(found.lengths[7].min()) > 0
    judged = grpojax.reward.checked(grpojax.reward.WeightedSum(), found)
    np.testing.assert_array_equal(judged.valid, ~np.asarray(errors))


def test_prompts_of_a_group_share_their_beginning():
    count = itertools.count()

    def agent(row, base_url):
        del row
        complete(base_url, f"Ask {'ab' * next(count)}", max_tokens=4)

    found = sampled(served(agent), prompts=1)
    assert found.prompt.length.tolist() == [4] and found.counts["rejected"].all()
    own = np.asarray(found.sampled)
    # What they do not share is a part of the row, and not trained on.
    assert not own[0].all(axis=0)[0] and own.sum() <= 8
    texts = {text_of(found, 0, g)[:8] for g in range(2)}
    assert any(text.startswith("Ask ab") for text in texts)


def test_calls_that_are_refused():
    seen = {}

    def agent(row, base_url):
        del row
        for name, body in {
            "temperature": {"temperature": 0.5},
            "seed": {"seed": 3},
            "n": {"n": 2},
            "prompts": {"prompt": ["1", "2"]},
            "long": {"prompt": "x" * 13},
            "key": {"temprature": 0.5},
        }.items():
            with pytest.raises(urllib.error.HTTPError) as refused:
                post(base_url, **{"prompt": "1", **body})
            seen[name] = json.loads(refused.value.read())["error"]["message"]
        complete(
            base_url, "1", temperature=1.0, max_tokens=3
        )  # As that of the rollout.
        with pytest.raises(urllib.error.HTTPError):
            post(base_url, "reward", reward="much")
        seen["url"] = base_url
        return 1.0

    found = sampled(served(agent), prompts=1)
    assert not found.dropped.any()
    assert "is that of the rollout, 1.0. Received 0.5" in seen["temperature"]
    assert "answered once" in seen["seed"] and "Received n=2" in seen["n"]
    assert "one prompt. Received 2" in seen["prompts"]
    assert "at most 12 tokens. Received 13" in seen["long"]
    assert "did you mean `temperature`?" in seen["key"]
    with pytest.raises(urllib.error.URLError):
        post(seen["url"], prompt="1")  # After the rollout there is no server.


def fit(out=None, *, steps, mesh=None, **options):
    optimizer = optax.sgd(0.1)
    config = grpojax.RolloutConfig(prompts=4, group=2, slots=3)
    step = grpojax.TrainStep(served(), optimizer, rollout=config)
    state = grpojax.init(bigram(), optimizer=optimizer, key=jr.key(0))
    if mesh is not None:
        state = sharding.place(state, mesh)
    options = {"checkpoint": runs.Checkpointing(every=2), **options}
    return grpojax.fit(state, step, steps=steps, out=out, **options)


def test_a_run_trains_evaluates_and_resumes(tmp_path):
    evaluation = runs.Evaluation(served(), problems=3, batch=3)
    full = fit(tmp_path / "full", steps=3, evaluation=evaluation)
    fit(tmp_path / "half", steps=2)
    half = fit(tmp_path / "half", steps=3, resume=True)
    # Log-probs are those of other places in a cache, so only tokens are the same.
    chex.assert_trees_all_close(half.policy, full.policy, atol=1e-5)
    (line, _) = (tmp_path / "full" / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(line)["n"] == 3


@pytest.mark.slow
@pytest.mark.skipif(len(jax.devices()) < 2, reason="needs two devices")
def test_on_a_mesh():
    mesh = sharding.make_mesh(data=2, devices=jax.devices()[:2])
    one, two = fit(steps=2), fit(steps=2, mesh=mesh)
    np.testing.assert_allclose(two.policy.table, one.policy.table, atol=1e-5)


def test_what_does_not_fit_is_refused():
    for options, message in {
        "function": ({"agent": 3}, "a function of a row"),
        "time": ({"seconds": 0.0}, "above 0"),
        "many": ({"concurrency": 0}, "concurrency"),
    }.values():
        with pytest.raises(ValueError, match=message):
            served(**options)
    with pytest.raises(ValueError, match="in one turn"):
        AgentEnvironment(numbers(max_turns=2), twice, TOKENIZER)
    with pytest.raises(ValueError, match="Categorical"):
        rollout.complete(
            bigram(),
            served(),
            *jax.vmap(served().problem)(jnp.arange(1)),
            sampler=sampler_of([Sampling()]),
            key=jr.key(0),
        )
    config = grpojax.RolloutConfig(prompts=2, group=2)
    step = grpojax.TrainStep(served(), optax.sgd(0.1), rollout=config)
    state = grpojax.init(bigram(), optimizer=step.optimizer, key=jr.key(0))
    with pytest.raises(Exception, match="called between programs"):
        eqx.filter_jit(step)(state)
