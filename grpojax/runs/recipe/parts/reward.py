"""The reward of a recipe: a weighted sum of components, then shapings."""

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Int

from .... import reward, update
from ....env import AbstractAnswerEnvironment, AbstractDatasetEnvironment, Turn
from ....policy import AbstractPolicy
from ....reward import RewardFn
from ....text import AbstractTokenizer
from ....types import Rewards, Trajectory
from ..frozen.load import load_frozen
from ..kinds import check
from ..schema import Recipe, Reward
from . import shapings
from .compose import arguments_of, Context, Given, LATER, make, parameters_of, split
from .lookup import find


REWARDS: list[ModuleType] = [reward, shapings, update]
"""Modules whose names a recipe may give to reward functions and shapings."""

_HOST_KEYS = ("batch_size", "concurrency", "seconds", "retries", "backoff", "on_error")


def build_reward(
    recipe: Recipe,
    env: AbstractDatasetEnvironment,
    tokenizer: AbstractTokenizer,
    reference: Callable[[], AbstractPolicy],
    mesh: Mesh | None = None,
) -> RewardFn:
    """The weighted sum and the shapings of a recipe.

    Parts are given what they ask for by the name of a parameter: `decode`, `horizon`,
    `reference` (a copy of the initial policy), `tokenizer`, `load` (of a frozen model)
    and `solutions` (the right answers by prompt, or the column `answer`). A Python
    function over `completions`, or a class whose instances are such, becomes a
    `HostReward`, and the columns of the rows are its arguments.

    **Arguments:**

    - `recipe`: its section `reward`.
    - `env`: what is trained on.
    - `tokenizer`: the policy's.
    - `reference`: makes the reference policy, if a part asks for it.
    - `mesh`: of frozen models that a part loads.

    **Raises:** `ValueError` with the key, for unknown parts and components.
    """
    function = _build(
        recipe,
        {
            "decode": lambda: tokenizer.decode,
            "reference": reference,
            "solutions": lambda: solutions(env, tokenizer),
            "tokenizer": lambda: tokenizer,
            "load": lambda: functools.partial(
                load_frozen, "reward.terms", recipe, tokenizer, mesh
            ),
        },
        env,
    )
    return _RecipeReward(function)


class _RecipeReward(eqx.Module):
    """A reward function whose errors name the recipe's section."""

    function: RewardFn

    def __call__(self, trajectory: Trajectory) -> Rewards:
        try:
            return self.function(trajectory)
        except (ValueError, TypeError) as error:
            raise ValueError(f"`reward` does not fit the task. {error}") from error


def check_reward(recipe: Recipe) -> None:
    """Checks the section `reward`, as far as no model is needed for it."""
    # How tokens are decoded does not matter to a part that is not called.
    later = dict.fromkeys(("reference", "tokenizer", "load"), lambda: LATER)
    known: Given = {"decode": lambda: repr, "solutions": dict, **later}
    _build(recipe, known)
    named = [x["name"] if isinstance(x, Mapping) else x for x in recipe.reward.shapings]
    if "shuffled" in named and recipe.rollout.prompts < 2:
        raise ValueError(
            "`reward.shapings: [shuffled]` gives a prompt the rewards of another, so a "
            "step needs two prompts. Received rollout.prompts="
            f"{recipe.rollout.prompts}."
        )


def _build(
    recipe: Recipe, given: Given, env: AbstractDatasetEnvironment | None = None
) -> Any:
    """The reward function, or `LATER`."""
    settings, horizon = recipe.reward, recipe.rollout.max_new_tokens
    context = Context(REWARDS, {**given, "horizon": lambda: horizon})
    rows = None if env is None else env.rows
    terms: list[Any] = []
    weights: Any = dict(settings.weights)
    if recipe.environment.factory is not None:
        weights = {"environment": 1.0, **weights}
    for i, part in enumerate(settings.terms):
        key = f"reward.terms[{i}]"
        term, weight = _term(key, part, context, rows or {})
        terms.append(term)
        if weight is not None and term is not LATER:
            weights = {**weights, **_weight(key, term, weight, settings.weights)}
    changes = [
        make(f"reward.shapings[{i}]", part, reward.Shaping, context)
        for i, part in enumerate(settings.shapings)
    ]
    if any(part is LATER for part in (*terms, *changes)):
        return LATER
    if env is not None:
        weights = _payable(weights, terms, env)
    try:
        total = reward.WeightedSum(weights, *terms)
        return reward.Chain(total, *changes)
    except (ValueError, TypeError) as error:
        raise ValueError(f"`reward` is refused. {error}") from error


def _term(
    key: str, part: object, context: Context, rows: Mapping[str, object]
) -> tuple[Any, float | None]:
    """A reward function, or `LATER`, and its weight if it is there.

    A Python function over texts runs on the host.
    """
    name, described = split(key, part)
    weight: Any = described.pop("weight", None)
    if weight is not None:
        weight = check(f"{key}.weight", float, weight, {})
    target: Any = find(key, name, context.modules)
    if not _judges_texts(target):
        kept = {("as" if x == "name" else x): y for x, y in described.items()}
        part = {"name": name, **kept} if kept else name
        return make(key, part, RewardFn, context), weight
    parameters = parameters_of(target)
    component = described.pop("name", None) or _component(target, name)
    options = {
        x: described.pop(x)
        for x in _HOST_KEYS
        if x in described and x not in parameters
    }
    if isinstance(target, type):
        function = make(key, {"name": name, **described}, object, context)
    else:
        # What the recipe does not provide is a column of the rows.
        columns = [x for x in parameters if x not in context.given or x in rows]
        function = target
        arguments = arguments_of(
            key, name, target, described, context, supplied=columns
        )
        if arguments:
            function = functools.partial(target, **arguments)
    if function is LATER:
        return LATER, weight
    own = parameters_of(reward.HostReward)
    options = arguments_of(
        key, "HostReward", reward.HostReward, options, context, supplied=list(own)
    )
    values: Any = {"decode": context.given["decode"](), "name": component, **options}
    try:
        return reward.HostReward(function, **values), weight
    except (ValueError, TypeError) as error:
        raise ValueError(f"`{key}` is refused. {error}") from error


def _judges_texts(target: Any) -> bool:
    """Whether a function, or the instances of a class, are called with completions."""
    if isinstance(target, type):
        call = inspect.getattr_static(target, "__call__", None)
        return inspect.isfunction(call) and "completions" in parameters_of(call)
    if not callable(target):
        return False
    found = parameters_of(target)
    kinds = {x.kind for x in found.values()}
    return "completions" in found or kinds == {inspect.Parameter.VAR_KEYWORD}


def _component(target: Any, name: str) -> str:
    """The name of a component without one: that of its function, in lower case."""
    name = getattr(target, "__name__", name.rpartition(":")[2].rpartition(".")[2])
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _weight(
    key: str, term: RewardFn, weight: float, weights: Mapping[str, float]
) -> dict[str, float]:
    """The weight that is written beside a reward function, by its component."""
    name = getattr(term, "name", None)
    if not isinstance(name, str):
        raise ValueError(
            f"`{key}.weight` is of a reward function that names its component. "
            f"Received {term!r:.80}: write its weight in `reward.weights`."
        )
    if weights.get(name) not in (None, weight, Reward().weights.get(name)):
        raise ValueError(
            f"A component has one weight. Received `{key}.weight: {weight:g}` and "
            f"`reward.weights.{name}: {weights[name]:g}`: leave one out."
        )
    return {name: weight}


def _payable(
    weights: dict[str, float], terms: Sequence[object], env: AbstractDatasetEnvironment
) -> dict[str, float]:
    """Weights without the default one for `correct`, where nothing has answers."""
    others = any(weight for name, weight in weights.items() if name != "correct")
    is_default = weights.get("correct") == Reward().weights["correct"]
    named = {getattr(term, "name", None) for term in terms}
    if others and is_default and "correct" not in named | _components(env):
        return {**weights, "correct": 0.0}
    return weights


def _components(env: AbstractDatasetEnvironment) -> set[str]:
    """The reward components of an environment."""
    time = jax.ShapeDtypeStruct((env.max_completion_length,), jnp.int32)

    def step(tokens: Int[jax.Array, " time"]):
        state, _ = env.problem(jnp.zeros((), jnp.int32))
        turn = Turn(tokens, jnp.zeros((), jnp.int32), jnp.ones((), bool))
        return env.step(state, turn)[1].rewards

    return set(jax.eval_shape(step, time))


def solutions(
    env: AbstractDatasetEnvironment, tokenizer: AbstractTokenizer
) -> dict[str, str] | str:
    """The right answers of an environment's problems, by the text of their prompts.

    If its rows have a column `answer`, those are its values, and its name is returned.

    **Raises:** `ValueError` for an environment that does not know them.
    """
    if "answer" in (env.rows or {}):
        return "answer"
    if not isinstance(env, AbstractAnswerEnvironment):
        raise ValueError(
            "`solutions` are the answers of an `AbstractAnswerEnvironment`. Received "
            f"{type(env).__name__}, which has none, and no column `answer`: name the "
            "column, `solutions: NAME`, or leave the reward out."
        )

    @jax.jit
    def every(index: Int[jax.Array, " problem"]):
        states, prompts = jax.vmap(env.problem)(index)
        return prompts, jax.vmap(env.gold)(states)

    prompts, gold = jax.device_get(every(jnp.arange(env.size)))
    rows = zip(prompts.tokens, prompts.length, gold, strict=True)
    return {
        tokenizer.decode(tokens[:length].tolist()): str(answer)
        for tokens, length, answer in rows
    }
