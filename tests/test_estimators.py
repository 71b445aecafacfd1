"""Every algorithm's gradient estimator against the true gradient, by enumeration."""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import estimators
from grpojax import advantage, algorithms, update
from grpojax.testing import CompletionTree, gradient_moments

from .helpers import mostly_slow


TREE = CompletionTree(3, 2)
NAMES = sorted(x for x in vars(algorithms) if inspect.isfunction(vars(algorithms)[x]))
sizes = pytest.mark.parametrize(
    "prompts, group", mostly_slow([(1, 2), (1, 4), (2, 2)], [(2, 2)])
)


def assert_exact(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def problem(prompts: int = 1, *, right: bool = False):
    """Logits and rewards: of any value, or 1 for two completions and 0 for others."""
    random = np.random.default_rng(prompts)
    logits = random.normal(size=(prompts, len(TREE.contexts), TREE.vocab))
    rewards = random.normal(size=(prompts, len(TREE.tokens)))
    if right:
        rewards = (rewards >= np.sort(rewards)[:, -2:-1]).astype(float)
    return jnp.asarray(logits), jnp.asarray(rewards)


def enumerated(logits):
    """Probabilities of completions, and ∇ log π of each of their tokens, in NumPy.

    d log softmax(x)[a] / dx = onehot(a) - softmax(x), of the token's own context.
    """
    logits = np.asarray(logits)
    tables = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    chances, scores = [], []
    for table in tables:
        for tokens, context in zip(TREE.tokens, TREE.context, strict=True):
            length, chance, score = TREE.horizon, 1.0, np.zeros((2, *table.shape))
            if 0 in tokens:
                length = list(tokens).index(0) + 1
            for t in range(length):
                chance *= table[context[t], tokens[t]]
                score[t, context[t]] = np.eye(TREE.vocab)[tokens[t]] - table[context[t]]
            chances.append(chance)
            scores.append(score)
    shape = len(tables), len(TREE.tokens)
    return np.reshape(chances, shape), np.reshape(scores, (*shape, *np.shape(score)))


def true_gradient(logits, rewards):
    """∇ of the mean over prompts of Σ π r, as Σ π r ∇ log π."""
    chance, score = enumerated(logits)
    found = np.einsum("pc,pctsv->psv", chance * np.asarray(rewards), score)
    return found / len(chance)


def test_all_completions_are_in_the_tree_once():
    assert TREE.tokens.tolist() == [[0, 0], *([a, b] for a in (1, 2) for b in range(3))]
    assert TREE.contexts == [(), (1,), (2,)] and TREE.lengths.tolist() == [1] + [2] * 6
    chance, _ = enumerated(problem()[0])
    assert_exact(chance.sum(), 1)
    deeper = CompletionTree(2, 4)
    logits = jnp.zeros((1, len(deeper.contexts), 2))
    found = jnp.exp(deeper.log_probs(logits).sum(axis=-1))
    assert_exact(found, 0.5 ** deeper.lengths[None])
    assert float(found.sum()) == 1


@pytest.mark.laws
@pytest.mark.parametrize(
    "prompts, group", mostly_slow([(1, 2), (1, 4), (2, 2)], [(2, 2)])
)
def test_the_mean_of_the_others_leaves_no_bias(prompts, group):
    given = problem(prompts)
    found = gradient_moments(algorithms.rloo(), TREE, *given, group=group)
    truth = true_gradient(*given)
    assert_exact(found.truth, truth)
    assert_exact(found.mean, truth)
    assert found.bias < 1e-9 and found.direction_bias < 1e-9 < found.variance


@pytest.mark.laws
@pytest.mark.parametrize(
    "prompts, group", mostly_slow([(1, 2), (1, 4), (2, 2)], [(2, 2)])
)
def test_the_mean_of_the_group_shrinks_the_gradient(prompts, group):
    """By (G - 1) / G; and the covariance by its square, against the mean of others."""
    given = problem(prompts)
    shrunk = (group - 1) / group
    centered = algorithms.Algorithm(
        advantage.group_centered,
        advantage.keep_all,
        update.Objective(weight=update.sequence_sum),
    )
    found = gradient_moments(centered, TREE, *given, group=group)
    others = gradient_moments(algorithms.rloo(), TREE, *given, group=group)
    assert_exact(found.mean, shrunk * true_gradient(*given))
    assert_exact(found.scale, shrunk)
    assert_exact(found.variance, shrunk**2 * others.variance)
    # Dr. GRPO divides by the horizon besides.
    divided = gradient_moments(algorithms.dr_grpo(), TREE, *given, group=group)
    assert_exact(divided.scale, shrunk / TREE.horizon)
    assert divided.direction_bias < 1e-9


@pytest.mark.laws
@pytest.mark.parametrize("group", mostly_slow([2, 3, 4], [2]))
def test_right_or_wrong_the_std_only_scales_the_gradient_of_a_prompt(group):
    """E[∇ log π] given a reward is along the gradient, whatever the advantage.

    For groups of two and three the std is a constant; for larger ones the scale is
    another for another probability of being right, so that several prompts have a bias.
    """
    luspo, given = algorithms.luspo(), problem(2, right=True)
    one = gradient_moments(luspo, TREE, *problem(right=True), group=group)
    assert one.direction_bias < 1e-9
    both = gradient_moments(luspo, TREE, *given, group=group)
    if group == 4:
        assert both.direction_bias > 1e-3
        return
    std = {2: 1 / np.sqrt(2), 3: 1 / np.sqrt(3)}[group]
    scale = (group - 1) / group / (std + 1e-4)
    assert_exact(both.mean, scale * true_gradient(*given))


def advantage_of(name: str, r, n):
    """The advantages of one group of rewards and lengths, from the papers."""
    mean, std = r.mean(), r.std(ddof=1)
    match name:
        case "rloo":
            return np.asarray([x - np.delete(r, i).mean() for i, x in enumerate(r)])
        case "opo":
            return r - (n * r).sum() / n.sum()
        case "dr_grpo":
            return r - mean
        case "reinforce_plus_plus":
            tokens = np.repeat(r, n)
            return (r - tokens.mean()) / np.sqrt(tokens.var(ddof=1) + 1e-8)
    return (r - mean) / (std + 1e-4)


def weight_of(name: str, n):
    """The weight of each token of rows of these lengths, from the papers."""
    match name:
        case "grpo" | "gspo" | "gmpo" | "sapo":
            return 1 / (len(n) * n)
        case "rloo" | "opo" | "luspo":
            return np.ones(len(n)) / len(n)
        case "dr_grpo":
            return np.ones(len(n)) / (len(n) * TREE.horizon)
    return np.ones(len(n)) / n.sum()


@pytest.mark.laws
@pytest.mark.parametrize(
    "name", mostly_slow(NAMES, ["grpo", "reinforce_plus_plus", "opo"])
)
def test_the_moments_of_every_algorithm_are_those_of_its_formula(name):
    """Σ weight · A · ∇ log π over all ordered groups, in NumPy."""
    group, (logits, rewards) = 3, problem()
    chance, score = (x[0] for x in enumerated(logits))
    r, rows = np.asarray(rewards[0]), score.sum(axis=1)
    moments = []
    for members in itertools.product(range(len(r)), repeat=group):
        index = np.asarray(members)
        n = TREE.lengths[index]
        # Where all rewards are equal the advantage is 0, whatever the rounding.
        factor = 0 * n if np.ptp(r[index]) == 0 else advantage_of(name, r[index], n)
        factor = factor * weight_of(name, n)
        moments.append((chance[index].prod(), np.tensordot(factor, rows[index], 1)))
    weights, gradients = (np.asarray(x) for x in zip(*moments, strict=True))
    mean = np.tensordot(weights, gradients, 1)
    variance = weights @ ((gradients - mean) ** 2).sum(axis=(1, 2))
    algorithm = vars(algorithms)[name]()
    found = gradient_moments(algorithm, TREE, logits, rewards, group=group)
    assert_exact(found.mean[0], mean)
    assert_exact(found.variance, variance)


def test_a_sampler_behind_the_policy_biases_what_has_no_ratio():
    """E under the behavior of A ∇ log π is exact for a weight of its own."""
    logits, rewards = problem()
    old = logits + 0.3 * np.random.default_rng(9).normal(size=logits.shape)
    found = gradient_moments(
        algorithms.rloo(), TREE, logits, rewards, group=2, behavior=old
    )
    chance, _ = enumerated(old)
    _, score = enumerated(logits)
    # The rows are independent: E[(r - r') ∇ log π] = E[r ∇ log π] - E[r] E[∇ log π].
    r, rows = np.asarray(rewards), score.sum(axis=2)
    both = np.einsum("pc,pcsv->psv", chance * r, rows)
    apart = (chance * r).sum() * np.einsum("pc,pcsv->psv", chance, rows)
    assert_exact(found.mean, both - apart)
    assert found.direction_bias > 1e-2
    angle = np.arctan(found.direction_bias)
    assert_exact(found.cosine_similarity, np.cos(angle))


def test_what_does_not_fit_is_refused():
    logits, rewards = problem()
    rloo = algorithms.rloo()
    with pytest.raises(ValueError, match=r"give \[prompt, 3, 3\] and \[prompt, 7\]"):
        gradient_moments(rloo, TREE, logits[:, :2], rewards, group=2)
    with pytest.raises(ValueError, match="at most 1,000,000 batches"):
        gradient_moments(rloo, TREE, *problem(2), group=8)
    with pytest.raises(ValueError, match="CompletionTree.vocab"):
        CompletionTree(1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rloo", "grpo", "dapo", "opo"])
def test_train_steps_estimate_the_same_gradient(name):
    """Rollouts by `generate` and gradients by `improve`, with their interval."""
    algorithm = vars(algorithms)[name]()
    exact = gradient_moments(
        algorithm, estimators.TREE, *estimators.problem(1), group=4
    )
    with jax.enable_x64(False):
        mean, half = estimators.sampled_scale(algorithm, group=4, batches=4000)
    # Three intervals of 95%: once in hundreds of millions of seeds it is not.
    assert abs(mean - float(exact.scale)) < 3 * half
    assert half < 0.1
