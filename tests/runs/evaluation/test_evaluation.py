import collections
from importlib import resources

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jaxtyping import Array, Int

from envs.addition import Addition
from envs.gsm8k import GSM8K, word_problems
from grpojax import models, rollout
from grpojax.env import AbstractAnswerEnvironment, AbstractDatasetEnvironment, TimeStep
from grpojax.policy import logits
from grpojax.rollout import Categorical, Greedy
from grpojax.runs.evaluation.evaluate import Evaluation
from grpojax.runs.evaluation.statistics import answer_text, wilson
from grpojax.text import load_tokenizer, ParsedInteger
from grpojax.types import Prompt, Rewards, Trajectory

from ...envs.double import ByteTokenizer
from ...helpers import transformer


KEY = jr.key(0)
slow = pytest.mark.slow


def evaluate(policy, env, **settings):
    return Evaluation(env, **settings).run(policy)


class ParityEnv(AbstractDatasetEnvironment[Int[Array, ""]]):
    """A completion is right if its sum has the parity of the problem's index."""

    prompts: Int[Array, "problem prefix"]
    lengths: Int[Array, " problem"]
    end_tokens: Int[Array, " end"]
    size: int = eqx.field(static=True)
    vocab_size: int = eqx.field(static=True, default=50)
    max_prompt_length: int = eqx.field(static=True, default=5)
    max_completion_length: int = eqx.field(static=True, default=6)
    max_turns: int = eqx.field(static=True, default=1)

    def problem(self, index):
        return index, Prompt(self.prompts[index], self.lengths[index])

    def step(self, state, turn):
        right = jnp.sum(turn.tokens) % 2 == state % 2
        rewards = {"correct": right.astype(float), "half": jnp.asarray(0.5)}
        return state, TimeStep(
            jnp.zeros(0, jnp.int32), jnp.asarray(0), rewards, jnp.asarray(True)
        )


def parity_env(size: int = 7, seed: int = 0) -> ParityEnv:
    draw = np.random.default_rng(seed)
    return ParityEnv(
        prompts=jnp.asarray(draw.integers(0, 50, (size, 5)), jnp.int32),
        lengths=jnp.asarray(draw.integers(1, 6, size), jnp.int32),
        end_tokens=jnp.arange(12, dtype=jnp.int32),
        size=size,
    )


@eqx.filter_jit
def likeliest(policy, row, length):
    return jnp.argmax(logits(policy, row)[length - 1])


def greedy_by_hand(policy, env, index: int) -> tuple[list[int], bool]:
    """One problem, token by token, with nothing but whole-sequence logits."""
    length = int(env.lengths[index])
    row = np.zeros(11, np.int32)  # What follows a token does not change its logits.
    row[:length] = env.prompts[index, :length]
    for place in range(length, length + env.max_completion_length):
        row[place] = likeliest(policy, jnp.asarray(row), jnp.asarray(place))
        if row[place] in range(12):
            return row[length : place + 1].tolist(), True
    return row[length : place + 1].tolist(), False


@pytest.mark.parametrize(
    ("batch", "slots"),
    [(7, 2), pytest.param(3, None, marks=slow), pytest.param(64, None, marks=slow)],
)
def test_equals_a_python_loop(batch, slots):
    policy, env = transformer(), parity_env()
    got = evaluate(policy, env, sampler=Greedy(), batch=batch, slots=slots, key=KEY)
    expected = [greedy_by_hand(policy, env, index) for index in range(env.size)]
    right = [sum(tokens) % 2 == index % 2 for index, (tokens, _) in enumerate(expected)]
    assert got.count == env.size
    assert got.correct[:, 0].tolist() == right
    assert got.accuracy == pytest.approx(sum(right) / env.size)
    assert got.interval == wilson(sum(right), env.size)
    assert got.lengths[:, 0].tolist() == [len(tokens) for tokens, _ in expected]
    assert got.terminated[:, 0].tolist() == [ended for _, ended in expected]
    assert got.clipped_ratio == pytest.approx(
        sum(not ended for _, ended in expected) / env.size
    )
    for index, (tokens, _) in enumerate(expected):
        assert got.tokens[index, 0, : len(tokens)].tolist() == tokens
        assert not np.any(got.tokens[index, 0, len(tokens) :])
        prompt = env.prompts[index, : env.lengths[index]]
        assert got.prompts[index].tolist() == prompt.tolist()
    assert set(got.rewards) == {"correct", "half"}
    assert np.all(got.rewards["half"] == 0.5)


def test_the_first_problems_are_those_of_the_whole():
    policy, env = transformer(), parity_env()
    few = evaluate(policy, env, sampler=Greedy(), problems=4, batch=3, key=KEY)
    full = evaluate(policy, env, sampler=Greedy(), batch=3, key=KEY)
    assert few.count == 4
    assert np.array_equal(few.tokens, full.tokens[:4])


def test_samples_of_a_problem_differ_and_the_key_decides():
    policy, env = transformer(), parity_env()
    draw = lambda key: evaluate(policy, env, samples=5, batch=4, key=key)
    one, again, other = draw(KEY), draw(KEY), draw(jr.key(1))
    assert one.correct.shape == (7, 5) and one.count == 35
    assert np.array_equal(one.tokens, again.tokens)
    assert not np.array_equal(one.tokens, other.tokens)
    assert any(len({tuple(row) for row in rows}) > 1 for rows in one.tokens.tolist())


@slow
def test_completions_do_not_depend_on_batches_or_slots():
    policy, env = transformer(), parity_env(size=13)
    for sampler in (Categorical(), Greedy()):
        sizes = dict(samples=3, sampler=sampler, key=KEY)
        full = evaluate(policy, env, batch=13, **sizes)
        for batch, slots in ((1, None), (4, None), (5, 2), (6, 7), (64, 1)):
            some = evaluate(policy, env, batch=batch, slots=slots, **sizes)
            assert np.array_equal(some.tokens, full.tokens)
            assert np.array_equal(some.correct, full.correct)
            assert some.to_json() == full.to_json()


SHIPPED = resources.files("grpojax") / "assets" / "gsm8k-tiny"


@pytest.fixture(scope="module")
def shipped():
    return models.load(SHIPPED, dtype=jnp.float32), load_tokenizer(SHIPPED)


@pytest.mark.parametrize(
    "sampler, task",
    [
        pytest.param(Categorical(), "word problems", marks=slow, id="sampled"),
        pytest.param(Greedy(), "addition", marks=slow, id="greedy"),
        pytest.param(Categorical(), "addition", marks=slow, id="sums"),
        pytest.param(Greedy(), "word problems", marks=slow, id="likeliest"),
    ],
)
def test_the_shipped_model_is_as_good_for_every_batch_size(shipped, task, sampler):
    policy, tokenizer = shipped
    if task == "addition":
        env = Addition(tokenizer, split="test")
    else:
        rows = word_problems(30, split="test")
        env = GSM8K(rows, tokenizer, max_completion_length=32)
    sizes = dict(samples=2, sampler=sampler, problems=30, key=KEY)
    full = evaluate(policy, env, batch=30, **sizes)
    assert full.count == 60
    for batch, slots in ((4, None), (11, None), (8, 5)):
        some = evaluate(policy, env, batch=batch, slots=slots, **sizes)
        assert np.array_equal(some.tokens, full.tokens)
        assert some.to_json() == full.to_json()


@pytest.mark.slow
def test_votes_and_baselines_of_the_shipped_model(shipped):
    """Everything again, in Python, from the text of the completions."""
    policy, tokenizer = shipped
    rows, shown = word_problems(25, split="test"), word_problems(40)
    make = lambda rows: GSM8K(rows, tokenizer, max_completion_length=32)
    got = evaluate(
        policy, make(rows), samples=4, batch=10, training=make(shown), key=KEY
    )
    final = lambda rows: [int(row["answer"].rsplit("#### ", 1)[1]) for row in rows]
    gold = final(rows)
    assert got.gold == gold
    for p, g in np.ndindex(25, 4):
        completion = tokenizer.decode(got.tokens[p, g, : got.lengths[p, g]].tolist())
        tail = completion.rpartition("####")[2] if "####" in completion else ""
        tail = tail.strip()
        assert got.answers[p][g] == (int(tail) if tail.isdigit() else None)
        assert got.correct[p, g] == (got.answers[p][g] == gold[p])
    metrics, baselines = got.metrics, got.baselines
    assert list(metrics) == ["pass@1", "pass@2", "pass@4", "mean@4", "maj@4"]
    counts = got.correct.sum(1)
    assert metrics["mean@4"].value == pytest.approx(counts.mean() / 4) == got.accuracy
    assert metrics["pass@1"].value == pytest.approx(got.accuracy)
    assert metrics["pass@4"].value == pytest.approx(np.mean(counts > 0))
    assert metrics["pass@4"].interval == wilson(int(np.sum(counts > 0)), 25)
    assert 0 < got.accuracy < metrics["pass@2"].value < metrics["pass@4"].value
    assert got.interval == metrics["mean@4"].interval != wilson(int(counts.sum()), 100)
    common = collections.Counter(final(shown)).most_common(1)[0][0]
    assert baselines["majority_answer"].answer == common
    assert baselines["majority_answer"].value == gold.count(common) / 25
    here = baselines["majority_answer_of_this_split"]
    assert here.value == max(map(gold.count, gold)) / 25 and here.n == 25
    assert baselines["empty_completion"][:3] == (0.0, 25, wilson(0, 25))


class TalkEnv(AbstractAnswerEnvironment[Int[Array, ""]]):
    """Two turns with a reply of zeros between; the answer is a turn's first token."""

    prompts: Int[Array, "problem prefix"]
    end_tokens: Int[Array, " end"]
    size: int = eqx.field(static=True)
    vocab_size: int = eqx.field(static=True, default=50)
    max_prompt_length: int = eqx.field(static=True, default=4)
    max_completion_length: int = eqx.field(static=True, default=12)
    max_turns: int = eqx.field(static=True, default=2)

    def problem(self, index):
        prompt = Prompt(self.prompts[index], jnp.asarray(4, jnp.int32))
        return jnp.zeros((), jnp.int32), prompt

    def step(self, state, turn):
        right = (state > 0) & (turn.length == 1) & (turn.tokens[0] == 3)
        answer = TimeStep(
            reply=jnp.zeros(2, jnp.int32),
            reply_length=jnp.asarray(2, jnp.int32),
            rewards={"correct": right.astype(jnp.float32)},
            done=state > 0,
        )
        return state + 1, answer

    def gold(self, state):
        return state + 3

    def answer(self, turn):
        return ParsedInteger(turn.tokens[0], turn.length > 1)


def test_the_answer_of_a_conversation_is_its_last_turn_s():
    draw = np.random.default_rng(0)
    env = TalkEnv(
        prompts=jnp.asarray(draw.integers(0, 50, (9, 4)), jnp.int32),
        end_tokens=jnp.arange(3, 15, dtype=jnp.int32),
        size=9,
    )
    policy = transformer()
    got = evaluate(policy, env, samples=4, batch=9, key=KEY)
    states, prompts = jax.vmap(env.problem)(jnp.arange(9))
    trajectory = rollout.complete(policy, env, states, prompts, group=4, key=KEY)
    assert np.array_equal(got.tokens, trajectory.tokens)
    answers, replied = [], 0
    for p, g in np.ndindex(9, 4):
        tokens = trajectory.tokens[p, g].tolist()
        sampled = trajectory.sampled[p, g].tolist()
        total = max(i + 1 for i in range(12) if sampled[i])
        start = max([i + 1 for i in range(total) if not sampled[i]], default=0)
        answers.append(tokens[start] if total - start > 1 else None)
        replied += start > 0
        assert got.total_lengths[p, g] == total
        assert got.lengths[p, g] == sum(sampled)
    assert got.answers == np.reshape(np.array(answers, object), (9, 4)).tolist()
    assert 0 < replied < 36 and {*answers} > {None}
    # The first end token is 3: sampled twice it is right.
    assert got.baselines["empty_completion"].value == 1.0
    assert got.gold == [3] * 9


def test_without_answers_there_is_no_vote():
    got = evaluate(transformer(), parity_env(), samples=3, key=KEY)
    assert list(got.metrics) == ["pass@1", "pass@2", "pass@3", "mean@3"]
    assert list(got.baselines) == ["empty_completion"]
    assert got.gold == [None] * 7 and got.answers == [[None] * 3] * 7


def test_it_compiles_once_for_any_number_of_batches():
    traces = 0

    class Counting(Categorical):
        def __call__(self, logits, *, key):
            nonlocal traces
            traces += 1
            return super().__call__(logits, key=key)

    policy, env = transformer(), parity_env()
    evaluate(policy, env, sampler=Counting(), problems=2, batch=2, key=KEY)
    once, traces = traces, 0
    got = evaluate(policy, env, sampler=Counting(), batch=2, key=KEY)
    assert traces == 0 < once
    assert got.count == 7


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"problems": 8}, "between 1 and the 7 .* Received 8"),
        ({"problems": 0}, "between 1 and the 7 .* Received 0"),
        ({"samples": 0}, "samples must be a positive integer. Received 0"),
        ({"batch": -1}, "batch must be a positive integer. Received -1"),
        ({"slots": 0}, "slots must be a positive integer"),
        ({"success": "right"}, r"Received 'right'; .* \['correct', 'half'\]"),
    ],
)
def test_what_does_not_fit_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        evaluate(transformer(), parity_env(), key=KEY, **sizes)


class UnjudgedEnv(ParityEnv):
    """Nothing says which completions are right."""

    paid: bool = eqx.field(static=True, default=True)

    def step(self, state, turn):
        state, answer = super().step(state, turn)
        rewards = {"double": 2 * answer.rewards["correct"], "half": jnp.asarray(0.5)}
        kept = rewards if self.paid else {}
        return state, TimeStep(answer.reply, answer.reply_length, kept, answer.done)


def unjudged(**settings) -> UnjudgedEnv:
    env = parity_env()
    return UnjudgedEnv(env.prompts, env.lengths, env.end_tokens, env.size, **settings)


def numbered(trajectory: Trajectory) -> Rewards:
    """A reward function that asks for the number of the problem."""
    assert trajectory.problems is not None
    numbers = trajectory.problems.astype(jnp.float32)[:, None]
    shape = trajectory.terminated.shape
    return Rewards.of(jnp.broadcast_to(numbers, shape), name="number")


def test_a_reward_function_is_told_the_problem():
    policy = transformer()
    for batch in (3, 7):
        got = evaluate(policy, parity_env(), reward=numbered, batch=batch, key=KEY)
        assert got.total is not None
        assert got.total[:, 0].tolist() == list(range(7))
        reward = got.measures["reward"]
        assert (reward.value, reward.n) == (3.0, 7) and reward.interval[0] < 3
        assert set(got.rewards) == {"correct", "half", "number"}
        assert next(iter(got.measures)) == "accuracy"


def test_without_right_answers_the_mean_reward_counts():
    policy, settings = transformer(), dict(samples=2, key=KEY)
    right = evaluate(policy, parity_env(), **settings)
    got = evaluate(policy, unjudged(), **settings)
    assert right.correct is not None and got.correct is None
    assert np.array_equal(got.tokens, right.tokens)
    assert next(iter(got.measures)) == "reward"
    expected = 2 * right.accuracy + 0.5
    assert got.measures["reward"].value == pytest.approx(expected)
    assert got.interval == got.measures["reward"].interval
    assert "accuracy" not in got.to_json() and not got.baselines
    with pytest.raises(ValueError, match="Received the rewards .*'double', 'half'"):
        _ = got.accuracy
    named = evaluate(policy, unjudged(), success="double", **settings)
    assert named.accuracy == right.accuracy


def test_nothing_to_judge_by_is_refused():
    with pytest.raises(ValueError, match="An evaluation needs rewards"):
        evaluate(transformer(), unjudged(paid=False), key=KEY)


def test_votes_over_texts():
    """Where an environment parses no answers, samples vote with their texts."""
    policy, tokenizer = transformer(), ByteTokenizer()
    evaluation = Evaluation(parity_env(), samples=4, key=KEY)
    got = evaluation.run(policy, tokenizer=tokenizer)
    assert "maj@4" in got.metrics and got.correct is not None
    for p, row in enumerate(got.answers):
        texts = [
            tokenizer.decode(x[:n].tolist())
            for x, n in zip(got.tokens[p], got.total_lengths[p], strict=True)
        ]
        assert row == list(map(answer_text, texts))
    assert "maj@4" not in evaluation.run(policy).metrics  # Without texts.
