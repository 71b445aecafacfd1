"""Recipes that are refused before a model is loaded, and by which key."""

import importlib.util

import pytest

from grpojax import models
from grpojax.runs.cli import train
from grpojax.runs.recipe import build, load as recipes
from grpojax.runs.recipe.schema import Recipe


MINE = "tests.runs.recipe.user_parts"


def refusal(*assignments: str) -> str:
    with pytest.raises(ValueError) as caught:
        build.check(recipes.load(Recipe(), None, assignments))
    return str(caught.value)


@pytest.fixture
def no_model(monkeypatch):
    def load(*_, **__):
        pytest.fail("a model was loaded")

    monkeypatch.setattr(models, "load", load)


@pytest.mark.parametrize(
    ("assignment", "key", "nearest"),
    [
        ("algorithm.name=gropo", "algorithm.name", "grpo"),
        ("algorithm.advantage=group_normalized", "algorithm.advantage", None),
        ("algorithm.advantage=batch_normalized", None, "BatchNormalized"),
        ("algorithm.advantage=dapo_mix", None, "DapoMix"),
        ("algorithm.select={name: keep_al}", "algorithm.select", "keep_all"),
        ("algorithm.surrogate={name: clip}", "algorithm.surrogate", "Clip"),
        ("algorithm.ratio=clamped_token_ratio", None, "ClampedTokenRatio"),
        ("algorithm.weight=sequencemean", "algorithm.weight", "sequence_mean"),
        ("algorithm.importance=importance", None, "Importance"),
        ("algorithm.entropy_filter=top_entropy", None, "TopEntropy"),
        ("algorithm.penalties=[kl]", "algorithm.penalties[0]", "KL"),
        ("algorithm.penalties=[{name: KL, estimator: k4}]", None, "k3"),
        ("reward.terms=[soft_overlong]", "reward.terms[0]", "SoftOverlong"),
        ("reward.terms=[host_reward]", None, "HostReward"),
        ("reward.terms=[Cosine, kl_reward]", "reward.terms[1]", "KLReward"),
        ("reward.shapings=[drop_trunctated]", None, "drop_truncated"),
        ("rollout.sampler=categorical", "rollout.sampler", "Categorical"),
        ("rollout.behavior=int8", "rollout.behavior", "Int8Matrix"),
        ("rollout.behavior=quantise", "rollout.behavior", "quantize"),
        ("optimizer.name=adamww", "optimizer.name", "adamw"),
        ("optimizer.learning_rate=cosine_decay", None, "cosine_decay_schedule"),
    ],
)
def test_an_unknown_name_has_a_nearest(no_model, assignment, key, nearest):
    del no_model
    message = refusal(assignment)
    name = assignment.partition("=")[0] if key is None else key
    assert f"`{name}" in message and "must be a name that " in message
    assert f"the nearest is {nearest or 'GroupNormalized'!r}" in message


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        # Arguments that are unknown, with the nearest argument or key.
        (
            "algorithm.lwo=0.1",
            "`algorithm.lwo` must be an argument of grpo, which has ",
        ),
        ("algorithm.lwo=0.1", "the nearest is `low`"),
        ("algorithm.advantge=x", "the nearest is `advantage`"),
        ("algorithm.arguments=1", "`algorithm.arguments` must be an argument of grpo"),
        (
            "algorithm.surrogate={name: Clip, hgih: 1}",
            "`algorithm.surrogate.hgih` must",
        ),
        ("algorithm.surrogate={name: Clip, hgih: 1}", "the nearest is `high`"),
        (
            "algorithm.select={name: keep_all, count: 1}",
            "`algorithm.select.count` must",
        ),
        ("optimizer.clip_nrom=1", "the nearest is `clip_norm`"),
        ("optimizer.b3=0.1", "`optimizer.b3` must be an argument of adamw, which has "),
        (
            "reward.terms=[{name: Repetition, nam: x}]",
            "has ngram_size, max_penalty, as.",
        ),
        (
            "reward.shapings=[{name: ClipTotal, lwo: 1}]",
            "`reward.shapings[0].lwo` must",
        ),
        # Arguments that are missing.
        (
            "algorithm.off_policy_filter=OffPolicySequenceMask",
            "`algorithm.off_policy_filter` needs the argument `threshold` of Off",
        ),
        (
            "reward.terms=[SoftOverlong]",
            "`reward.terms[0]` needs the argument `buffer`",
        ),
        (
            "reward.shapings=[ClipTotal]",
            "`reward.shapings[0]` needs the argument `low`",
        ),
        (
            "reward.terms=[{name: HostReward, function: 'os:getcwd'}]",
            "`reward.terms[0]` needs the argument `as` of HostReward",
        ),
        # Parts of another kind.
        (
            "algorithm.surrogate={name: KL}",
            "must be of type `AbstractSurrogate`, or ",
        ),
        (
            "algorithm.importance=TopEntropy",
            "`algorithm.importance` must be of type `Imp",
        ),
        (
            "algorithm.penalties=[Clip]",
            "`algorithm.penalties[0]` must be of type `AbstractPenalty`",
        ),
        ("algorithm.weight=KL", "`algorithm.weight` must fit its place. Received KL("),
        (
            "algorithm.ratio=token_mean",
            "`algorithm.ratio` must fit its place. Received ",
        ),
        ("algorithm.advantage=keep_all", "must return a number for each row, of dtype"),
        (
            "algorithm.select=group_centered",
            "must return a flag for each row, of dtype",
        ),
        (
            "algorithm.penalties=[{name: KL, estimator: token_mean}]",
            "`algorithm.penalties` must fit its place",
        ),
        ("algorithm.name=Clip", "`algorithm.name` must be a name that grpojax.algo"),
        ("algorithm.name='os:getcwd'", "of type `Algorithm`, or a function that retu"),
        ("rollout.sampler=RolloutConfig", "`rollout.sampler` needs the argument `prom"),
        ("rollout.sampler='os:getcwd'", "must be of type `AbstractSampler`"),
        ("rollout.behavior=lora", "`rollout.behavior` needs the argument `policy`"),
        ("rollout.behavior='os:getcwd'", "must be of type `Callable`"),
        ("optimizer.name=linear_schedule", "`optimizer` needs the argument `init_val"),
        ("optimizer.name='os:getcwd'", "`optimizer` must be of type `GradientTran"),
        ("optimizer.learning_rate='os:getcwd'", "must be of type `Callable`, or"),
        (
            "reward.terms=[drop_truncated]",
            "`reward.terms[0]` needs the argument `traje",
        ),
        # What a class refuses itself.
        (
            "algorithm.surrogate={name: Clip, low: -1}",
            "`algorithm.surrogate` is refused",
        ),
        ("algorithm.low=-1", "`algorithm` is refused. `Clip.low` must be at least 0."),
        (
            "algorithm.weight={name: Constant, length: 0}",
            "`algorithm.weight` is refused",
        ),
        ("algorithm.importance={name: Importance, level: x}", "`algorithm.importance`"),
        (
            "rollout.sampler={name: Categorical, temperature: 0}",
            "`rollout.sampler` is r",
        ),
        (
            "reward.terms=[{name: SoftOverlong, buffer: 0}]",
            "`reward.terms[0]` is refused",
        ),
        (
            "reward.terms=[{name: HostReward, as: x, function: "
            "{name: InThread, function: 'os:getcwd', seconds: 0}}]",
            "`reward.terms[0].function` is refused. A time limit must be positive",
        ),
        # Values.
        ("algorithm.low=fast", "`algorithm.low` must be a number. Received 'fast'"),
        ("optimizer.b1=x", "`optimizer.b1` must be a number. Received 'x'"),
        ("rollout.group=1", "a group of one has no baseline"),
        ("rollout.group=1", "`algorithm.advantage`"),
        # Modules of the user's.
        ("reward.terms=['nowhere:f']", "there is no `f` in a module `nowhere`"),
        ("reward.terms=['os:nothing']", "`reward.terms[0]` must lead to an object"),
        (f"reward.terms=[{{name: '{MINE}:Short', mots: 3}}]", "the nearest is `most`"),
        ("data.task=gsm9k", "`data.task` must be one of addition, gsm8k"),
    ],
)
def test_what_is_refused_carries_its_key(no_model, assignment, message):
    del no_model
    assert message in refusal(assignment)


def test_two_names_of_one_component_and_other_places(no_model):
    del no_model
    message = refusal("reward.shapings=[shuffled]", "rollout.prompts=1")
    assert "needs two prompts. Received rollout.prompts=1" in message
    message = refusal("optimizer.name=adafactor", "optimizer.weight_decay=0.1")
    assert "`optimizer.weight_decay` must be an argument of adafactor" in message


def test_a_missing_package_is_named(no_model):
    del no_model
    recipe = recipes.load(Recipe(), None, ["reward.terms=[math_verify]"])
    if importlib.util.find_spec("math_verify") is not None:
        build.check(recipe)
        return
    with pytest.raises(ImportError, match="needs the package math-verify"):
        build.check(recipe)


def test_a_module_that_lacks_another_is_no_misspelt_name(tmp_path, monkeypatch):
    (tmp_path / "broken_part.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    recipe = recipes.load(Recipe(), None, ["reward.terms=['broken_part:f']"])
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        build.check(recipe)


@pytest.mark.parametrize("assignment", ["algorithm.weight=KL", "optimizer.name=admw"])
def test_a_run_and_its_parts_are_refused_before_a_model_is_loaded(no_model, assignment):
    del no_model
    with pytest.raises(ValueError, match=assignment.partition("=")[0]):
        train.prepare(recipes.load(Recipe(), None, [assignment]))


def test_a_weight_without_a_component_is_refused_when_the_task_is_known(settings):
    recipe = recipes.load(Recipe(), None, settings(reward__weights__brevity=1.0))
    with pytest.raises(
        ValueError, match=r"`reward` .* \['brevity'\]: correct the name"
    ):
        train.prepare(recipe)
