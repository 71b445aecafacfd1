"""Tasks: from a recipe's section `data` to environments."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jax.sharding import Mesh

from ...env import AbstractDatasetEnvironment
from ...host import HostEnvironment, Tools
from ...text import AbstractTokenizer
from ..agents.environment import AgentEnvironment
from ..distributed import mesh as meshes
from .kinds import check_options
from .parts.compose import arguments_of, Context, make, parameters_of, split
from .parts.lookup import find, imported
from .schema import Data, known_tasks, Recipe


MIXTURE = "mixture"
"""The task that joins others."""


class Environments(NamedTuple):
    """Environments to train and evaluate on, and remarks to whoever starts the run."""

    train: AbstractDatasetEnvironment
    held_out: AbstractDatasetEnvironment | None
    notes: list[str]


def build_environments(
    recipe: Recipe, tokenizer: AbstractTokenizer, mesh: Mesh | None = None
) -> Environments:
    """Calls the function of a recipe's task.

    It is `envs.<task>.environments`, or `package.module:function`, and is called with
    the options of the task, the tokenizer, and the keywords `horizon`
    (`rollout.max_new_tokens`) and `held_out` (of `held_out_problems`). It returns the
    three fields of `Environments`.

    The options are the frozen dataclass that its first parameter is annotated with,
    made of the keys of the section `data`; without such an annotation they are a
    mapping of the keys.

    **Raises:** `ValueError` for a task or a key that does not exist, `TypeError` for
    environments of another type, and what the function itself raises.
    """
    tokenizer = with_tools(recipe, tokenizer)
    train, held_out, notes = _build(
        recipe.data,
        tokenizer,
        horizon=recipe.rollout.max_new_tokens,
        held_out=held_out_problems(recipe),
    )
    train = answered(recipe, train, tokenizer)
    if held_out is not None:
        held_out = answered(recipe, held_out, tokenizer)
    return Environments(
        meshes.place(train, mesh), meshes.place(held_out, mesh), list(notes)
    )


def with_tools(recipe: Recipe, tokenizer: AbstractTokenizer) -> AbstractTokenizer:
    """The tokenizer, whose prompts offer the tools of a recipe."""
    tools = find_tools(recipe)
    return tokenizer if tools is None else tokenizer.with_tools(tools.described)


def answered(
    recipe: Recipe, env: AbstractDatasetEnvironment, tokenizer: AbstractTokenizer
) -> AbstractDatasetEnvironment:
    """An environment with turns that the section `environment` answers, if it does.

    **Raises:** `ValueError` for an environment of several turns, `ImportError` for an
    agent without the packages of the extra `serve`.
    """
    settings, host = recipe.environment, find_tools(recipe) or find_factory(recipe)
    agent = find_agent(recipe)
    if host is None and agent is None:
        return env
    try:
        if agent is not None:
            return AgentEnvironment(
                env,
                agent,
                tokenizer,
                max_prompt=settings.max_prompt,
                seconds=settings.seconds,
                concurrency=settings.concurrency,
            )
        return HostEnvironment(
            env,
            host,
            tokenizer,
            max_turns=settings.max_turns,
            chat=is_chat(recipe.data, env),
            seconds=settings.seconds,
            concurrency=settings.concurrency,
        )
    except ValueError as error:
        raise ValueError(f"`environment` does not fit the task. {error}") from error


def find_tools(recipe: Recipe) -> Tools | None:
    """The tools of the section `environment`, if there are any.

    **Raises:** `ValueError` with the key, for a function without a schema.
    """
    found: list[Any] = []
    for number, part in enumerate(recipe.environment.tools):
        key = f"environment.tools[{number}]"
        if isinstance(part, str):
            found.append(find(key, part, []))
        else:  # A function or a class that makes the tool.
            found.append(make(key, part, Callable, Context([])))
    if not found:
        return None
    try:
        return Tools(found, max_calls=recipe.environment.max_calls)
    except ValueError as error:
        raise ValueError(f"`environment.tools` is refused. {error}") from error


def find_factory(recipe: Recipe) -> Any:
    """What makes the objects of the section `environment`, or an object for all rows.

    **Raises:** `ValueError` with the key, for unknown names and arguments.
    """
    key, part = "environment.factory", recipe.environment.factory
    if part is None:
        return None
    name, described = split(key, part)
    target: Any = find(key, name, [])
    if not isinstance(target, type) and hasattr(target, "step") and not described:
        return target
    if not callable(target) or not hasattr(target, "step") and isinstance(target, type):
        raise ValueError(
            f"`{key}` must be a class with a method `step`, or a function that makes "
            f"its objects. Received {name!r}, which is {target!r:.80}."
        )
    arguments = arguments_of(key, name, target, described, Context([]))
    return functools.partial(target, **arguments) if arguments else target


def find_agent(recipe: Recipe) -> Callable[..., Any] | None:
    """The agent of the section `environment`, if there is one.

    **Raises:** `ValueError` with the key, for unknown names and arguments.
    """
    key, part = "environment.agent", recipe.environment.agent
    if part is None:
        return None
    name, described = split(key, part)
    agent: Any = find(key, name, [])
    if not callable(agent):
        raise ValueError(
            f"`{key}` must be a function of a row and a base URL. Received {name!r}, "
            f"which is {agent!r:.80}."
        )
    supplied = list(parameters_of(agent))[:2]
    arguments = arguments_of(
        key, name, agent, described, Context([]), supplied=supplied
    )
    return functools.partial(agent, **arguments) if arguments else agent


def is_chat(data: Data, env: AbstractDatasetEnvironment) -> bool:
    """Whether prompts are rendered by the tokenizer's chat template."""
    prompt = data.option("prompt")
    if data.option("chat") or not isinstance(prompt, str | None):
        return True
    values = (env.rows or {}).get(prompt or "", [])
    return len(values) > 0 and not isinstance(values[0], str)


def _build(
    data: Data, tokenizer: AbstractTokenizer, *, horizon: int, held_out: int | None
) -> Environments:
    make, options = find_task(data.task), task_options_of(data)
    if data.task == MIXTURE:
        return _join(options, make, tokenizer, horizon=horizon, held_out=held_out)
    made = make(options, tokenizer, horizon=horizon, held_out=held_out)
    environments = Environments(*made)
    for env in environments[:2]:
        if not isinstance(env, AbstractDatasetEnvironment | None):
            raise TypeError(
                f"`data.task: {data.task}` must make environments with numbered "
                f"problems, `AbstractDatasetEnvironment`. Received {env!r:.80}."
            )
    return environments


def _join(
    options: Any,
    mixture: Callable[[Mapping[str, AbstractDatasetEnvironment]], Any],
    tokenizer: AbstractTokenizer,
    *,
    horizon: int,
    held_out: int | None,
) -> Environments:
    """The environments of `data.task: mixture`, of those of its tasks."""
    if not options.tasks:
        raise ValueError(
            "`data.tasks` lists the tasks that a mixture joins. Received none: list "
            "some, such as `{task: gsm8k}`."
        )
    made, shares = {}, None
    if held_out is not None:
        count = len(options.tasks)
        shares = [held_out // count + (i < held_out % count) for i in range(count)]
    for number, task in enumerate(options.tasks):
        own = dict(task)
        data, name = Data(own.pop("task"), {}), own.pop("name", task["task"])
        own.pop("weight", None)
        sizes = {
            "horizon": own.pop("max_new_tokens", horizon),
            "held_out": own.pop("problems", shares and shares[number]),
        }
        try:
            made[name] = _build(data.with_arguments(own, {}), tokenizer, **sizes)
        except (ValueError, TypeError) as error:
            raise ValueError(f"`data.tasks[{number}]`, {name}: {error}") from error
    held = {name: x.held_out for name, x in made.items() if x.held_out is not None}
    return Environments(
        mixture({name: x.train for name, x in made.items()}),
        mixture(held) if held else None,
        [f"{name}: {note}" for name, x in made.items() for note in x.notes],
    )


def held_out_problems(recipe: Recipe) -> int | None:
    """How many held-out problems of the section `data` are evaluated; `None` for all.

    It is the most that `evaluations.NAME.problems` asks for.
    """
    settings = recipe.evaluations.settings.values()
    asked = [x.problems for x in settings if x.data is None and x.split == "held_out"]
    known = [x for x in asked if x is not None]
    return max(known, default=0) if len(known) == len(asked) else None


def task_options_of(data: Data) -> object:
    """The options of the task."""
    task, options = data.task, data.options
    if not isinstance(options, Mapping):
        return options
    kind = next(iter(parameters_of(find_task(task)).values())).annotation
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        return dict(options)
    values = check_options(kind, options, None, task)
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"`data` of the task {task}: {error}.") from None


def find_task(task: str) -> Callable[..., tuple]:
    """The function of a task; see `build_environments`."""
    module, colon, function = task.partition(":")
    if task == MIXTURE:
        module, function = "envs.mixture", "Mixture"
    elif not colon:
        module, function = f"envs.{task}", "environments"
    found: Any = imported(module, function)
    if found is None:
        raise ValueError(
            f"`data.task` must be one of {', '.join(known_tasks())}, or a function of "
            f"yours, `package.module:function`. Received {task!r}: there is no "
            f"`{function}` in a module `{module}`."
        )
    return found
