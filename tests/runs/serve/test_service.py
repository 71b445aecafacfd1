"""Requests in the rows of one rollout are decoded as if each were alone."""

import concurrent.futures
import queue
import time

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from grpojax import rollout
from grpojax.rollout import Categorical, Truncated
from grpojax.runs.evaluation.generate import Prompts
from grpojax.runs.serve.rows import Row, Sampling
from grpojax.runs.serve.service import Service

from ...helpers import transformer


PROMPT, TOKENS = 24, 16
complete = eqx.filter_jit(rollout.complete)


@pytest.fixture(scope="module")
def policies(tokenizer):
    return [transformer(seed=x, vocab_size=tokenizer.vocab_size) for x in (0, 1)]


@pytest.fixture(scope="module")
def service(policies, tokenizer):
    sizes = dict(slots=5, max_prompt=PROMPT, max_tokens=TOKENS, chunk=3)
    with Service(policies[0], tokenizer, **sizes) as service:
        yield service


def wait(chunks: queue.Queue):
    """All tokens, log-probs and versions of a row, and why it ended."""
    tokens, log_probs, versions = [], [], []
    while True:
        chunk = chunks.get(timeout=300)
        assert chunk.error is None
        tokens += chunk.tokens
        log_probs += chunk.log_probs
        versions += chunk.versions
        if chunk.finish is not None:
            return tokens, log_probs, versions, chunk.finish


def submit(service, prompt, seed, *, member=0, most=TOKENS, sampling=Sampling()):
    chunks = queue.Queue()
    row = Row(prompt, most, sampling, seed, member, chunks.put)
    service.submit(row)
    return row, chunks


def alone(policy, tokenizer, prompt, seed, most, sampler):
    """The prompt's completion without any other."""
    env = Prompts([[0] * PROMPT], tokenizer, max_completion_length=TOKENS)
    tokens = np.zeros((1, PROMPT), np.int32)
    tokens[0, : len(prompt)] = prompt
    prompts = eqx.tree_at(
        lambda x: (x.tokens, x.length),
        env.prompts,
        (jnp.asarray(tokens), jnp.array([len(prompt)], jnp.int32)),
    )
    limits = jnp.array([[most]])
    state = jnp.zeros(1, jnp.int32)
    found = complete(
        policy, env, state, prompts, limits=limits, sampler=sampler, key=jr.key(seed)
    )
    length = int(found.lengths[0, 0])
    finish = "stop" if bool(found.terminated[0, 0]) else "length"
    row = found.tokens[0, 0, :length].tolist(), found.log_prob[0, 0, :length]
    return *row, finish


def test_requests_at_the_same_time_are_those_of_each_prompt_alone(
    service, policies, tokenizer
):
    source = np.random.default_rng(0)
    asked = []
    for seed in range(64):
        size, most = source.integers(1, PROMPT + 1), source.integers(1, TOKENS + 1)
        prompt = source.integers(4, tokenizer.vocab_size, size).tolist()
        temperature = float(source.choice([0.5, 1.0]))
        asked.append((prompt, seed, int(most), temperature))

    def send(prompt, seed, most, temperature):
        sampling = Sampling(temperature)
        return wait(submit(service, prompt, seed, most=most, sampling=sampling)[1])

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        found = list(pool.map(send, *zip(*asked, strict=True)))
    for (prompt, seed, most, temperature), row in zip(asked, found, strict=True):
        sampler = Categorical(jnp.array(temperature))
        expected = alone(policies[0], tokenizer, prompt, seed, most, sampler)
        assert (row[0], row[3]) == (expected[0], expected[2])
        np.testing.assert_allclose(row[1], expected[1], atol=1e-4)


def test_members_of_a_request_are_those_of_a_group(service, policies, tokenizer):
    prompt = [5, 6, 7]
    rows = [submit(service, prompt, 3, member=x)[1] for x in range(3)]
    found = [wait(row)[0] for row in rows]
    env = Prompts([prompt], tokenizer, max_completion_length=TOKENS)
    state = jnp.zeros(1, jnp.int32)
    expected = complete(policies[0], env, state, env.prompts, group=3, key=jr.key(3))
    for tokens, row, length in zip(
        found, expected.tokens[0], expected.lengths[0], strict=True
    ):
        assert tokens == row[: int(length)].tolist()


def test_a_truncated_request(service, policies, tokenizer):
    sampling = Sampling(1.2, top_k=4, top_p=0.8)
    found = wait(submit(service, [9, 8], 2**40, sampling=sampling)[1])
    sampler = Truncated(1.2, top_k=4, top_p=0.8)
    expected = alone(policies[0], tokenizer, [9, 8], 2**40, TOKENS, sampler)
    assert (found[0], found[3]) == (expected[0], expected[2])


def idle(service):
    end = time.monotonic() + 300
    while service.active:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_row_that_is_cancelled_frees_its_slot(service):
    rows = [submit(service, [4], seed) for seed in range(12)]
    for row, _ in rows:
        service.cancel(row)
    last = wait(submit(service, [4], 100)[1])
    assert len(last[0]) <= TOKENS
    idle(service)
    chunks = [chunk for _, own in rows for chunk in list(own.queue)]
    assert sum(chunk.finish is not None for chunk in chunks) < 12


def test_a_step_that_fails_fails_its_requests_alone(service, monkeypatch):
    before = wait(submit(service, [4, 5], 1)[1])

    def fail():
        monkeypatch.undo()
        raise RuntimeError("out of memory")

    monkeypatch.setattr(service, "_insert_waiting", fail)
    assert "see its log" in submit(service, [4, 5], 1)[1].get(timeout=300).error
    after = wait(submit(service, [4, 5], 1)[1])
    assert (after[0], after[3]) == (before[0], before[3])


def test_another_policy(service, policies, tokenizer):
    service.replace_policy(policies[1])
    tokens, _, versions, _ = wait(submit(service, [4, 5], 1)[1])
    expected = alone(policies[1], tokenizer, [4, 5], 1, TOKENS, Categorical())
    assert tokens == expected[0] and set(versions) == {1}
    service.replace_policy(policies[0])
    assert set(wait(submit(service, [4, 5], 1)[1])[2]) == {2}


def test_sizes_that_are_refused(policies, tokenizer):
    with pytest.raises(ValueError, match="slots must be a positive integer. Received"):
        Service(policies[0], tokenizer, slots=0)


def test_the_end_of_a_service(policies, tokenizer):
    with Service(policies[0], tokenizer, slots=1, max_prompt=4, max_tokens=8) as own:
        waiting = [submit(own, [4], seed)[1] for seed in range(20)]
    last = [list(chunks.queue)[-1] for chunks in waiting]
    assert all(chunk.finish or "shutting down" in chunk.error for chunk in last)
