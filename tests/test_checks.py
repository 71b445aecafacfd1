"""Constructor arguments that cannot work are refused where they are passed."""

import equinox as eqx
import jax.numpy as jnp
import pytest

from grpojax import advantage, algorithms, reward, update
from grpojax._checks import check_parts
from grpojax.types import Rewards

from .reward.rows import of_lengths


ROWS = of_lengths(1, 2, correct=[[1.0, 0.0]])
OBJECTIVE = update.Objective()
IDS = jnp.zeros(2, int)


class Scale(eqx.Module):
    factor: float

    def __call__(self, trajectory, rewards):
        del trajectory
        return rewards


CLASSES = [
    (
        algorithms.Algorithm,
        (advantage.GroupNormalized, advantage.keep_all, OBJECTIVE),
        "Algorithm.advantage",
        "GroupNormalized()",
    ),
    (
        algorithms.Algorithm,
        (advantage.group_centered, advantage.NonzeroVariancePrompts, OBJECTIVE),
        "Algorithm.select",
        "NonzeroVariancePrompts(...)",
    ),
    (
        lambda estimator: advantage.ByGroupId(estimator, IDS, groups=1),
        (advantage.BatchScaled,),
        "ByGroupId.estimator",
        "BatchScaled()",
    ),
    (
        reward.WeightedSum,
        (None, reward.Repetition),
        "WeightedSum.others[0]",
        "Repetition()",
    ),
    (
        reward.Chain,
        (reward.WeightedSum, reward.drop_truncated),
        "Chain.first",
        "WeightedSum()",
    ),
    (
        reward.Chain,
        (reward.WeightedSum(), reward.zero_truncated, Scale),
        "Chain.rest[1]",
        "Scale(...)",
    ),
    (
        lambda function: reward.HostReward(function, str, name="judge"),
        (reward.Cosine,),
        "HostReward.function",
        "Cosine(...)",
    ),
    (reward.checked, (reward.WeightedSum, ROWS), "train_step.reward", "WeightedSum()"),
]


@pytest.mark.parametrize("make, arguments, field, remedy", CLASSES)
def test_a_class_in_place_of_an_instance_is_named(make, arguments, field, remedy):
    with pytest.raises(TypeError) as error:
        make(*arguments)
    name = remedy.partition("(")[0]
    assert str(error.value) == (
        f"`{field}` must be an instance. Received the class `{name}`: write `{remedy}`."
    )


def test_parts_are_called():
    check_parts("Owner", part=lambda: None, left_out=None, several=(str.upper, len))
    with pytest.raises(TypeError, match="`Owner.part` must be callable. Received 3"):
        check_parts("Owner", part=3)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: algorithms.grpo(low=-1.0), "`Clip.low` .* at least 0. Received -1"),
        (lambda: algorithms.grpo(beta=-0.1), "`KL.coefficient` must be at least 0"),
        (lambda: algorithms.dapo(high=-0.2), "`Clip.high` must be at least 0"),
        (lambda: algorithms.cispo(cap=-5.0), "`Cispo.cap` must be at least 0"),
        (lambda: algorithms.gmpo(low=float("nan")), "`Gmpo.low` must be at least 0"),
        (lambda: reward.WeightedSum({}), "names at least one component. Received {}"),
    ],
)
def test_values_out_of_range_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_arrays_are_not_checked():
    """They may be traced, as in a sweep; only Python numbers are known."""
    algorithm = algorithms.grpo(low=jnp.asarray(-1.0))
    rewards = Rewards.of(jnp.array([[1.0, 0.0]]))
    run = eqx.filter_jit(lambda algorithm: algorithm.advantage(rewards))
    assert jnp.isfinite(run(algorithm)).all()
