"""What `gsm8k.py` runs: everything is loaded and checked, then compiled, then run."""

import textwrap
import time
from importlib import resources
from pathlib import Path
from typing import NamedTuple, TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from gsm8k_parts import (
    build_algorithm,
    build_environments,
    build_optimizer,
    build_reward,
    Environments,
)
from jaxtyping import Array, Key
from rich.console import Console

import grpojax as gx
from grpojax.models import Transformer
from grpojax.runs import evaluation, files, loop, plots, progress, recipes
from grpojax.text import AbstractTokenizer, load_tokenizer


if TYPE_CHECKING:
    from gsm8k import Recipe


SHIPPED = "gsm8k-tiny"
SHOWN = 2  # Completions that are shown before and after.
PROMPT_TAIL = 400  # Characters of their prompts.


def say(console: Console, text: str, style: str = "") -> None:
    """Prints text as it is: no markup in it, and no line broken for a narrow screen."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


class Setup(NamedTuple):
    """All that a run needs, loaded, checked and traced, with nothing compiled yet."""

    tokenizer: AbstractTokenizer
    environments: Environments
    state: gx.TrainState
    step: loop.LoweredStep
    eval_key: Key[Array, ""]


def load_model(recipe: "Recipe") -> tuple[Transformer, AbstractTokenizer]:
    settings = recipe.model
    path = settings.path
    if path == SHIPPED:
        path = resources.files("grpojax") / "assets" / SHIPPED
    policy = gx.models.load(
        path,
        dtype=jnp.dtype(settings.dtype),
        compute_dtype=settings.compute_dtype and jnp.dtype(settings.compute_dtype),
        remat=settings.remat,
    )
    tokenizer = load_tokenizer(path)
    gx.models.check_tokenizer(policy, tokenizer)
    return policy, tokenizer


def prepare(recipe: "Recipe") -> Setup:
    """Loads a recipe's parts, and refuses those that do not fit together."""
    algorithm = build_algorithm(recipe)
    shape = recipe.rollout.prompts, recipe.rollout.group
    # A group that the baseline cannot do with is refused before anything is read.
    jax.eval_shape(algorithm.advantage, gx.Rewards.of(jnp.zeros(shape)))
    policy, tokenizer = load_model(recipe)
    environments = build_environments(recipe, tokenizer)
    optimizer = build_optimizer(recipe)
    reference = None
    if recipe.algorithm.beta is not None:
        # A copy: the step takes over the memory of the policy that it is given.
        copy = lambda x: jnp.copy(x) if eqx.is_array(x) else x
        reference = jax.tree.map(copy, policy)
    updating = recipe.update
    train_key, eval_key = jr.split(jr.key(recipe.run.seed))
    state = gx.init(policy, optimizer=optimizer, reference=reference, key=train_key)
    step = loop.lower(
        state,
        env=environments.train,
        optimizer=optimizer,
        algorithm=algorithm,
        reward=build_reward(recipe),
        prompts=recipe.rollout.prompts,
        group=recipe.rollout.group,
        train_prompts=updating.train_prompts,
        slots=recipe.rollout.slots,
        temperature=recipe.rollout.temperature,
        epochs=updating.epochs,
        minibatches=updating.minibatches,
        microbatches=updating.microbatches,
        recompute=updating.recompute,
    )
    return Setup(tokenizer, environments, state, step, eval_key)


def describe(recipe: "Recipe", setup: Setup) -> str:
    weights = jax.tree.leaves(eqx.filter(setup.state.policy, eqx.is_array))
    millions = sum(leaf.size for leaf in weights) / 1e6
    train, held_out, notes = setup.environments
    source = recipe.data.path if recipe.data.task == "gsm8k" else recipe.data.task
    rollout, held = recipe.rollout, 0 if held_out is None else held_out.size
    return "\n".join(
        [
            f"model  {recipe.model.path}: {millions:,.1f} million parameters, "
            f"{recipe.model.dtype}, on {jax.devices()[0].device_kind}",
            f"data   {source}: {train.size:,} training problems, {held:,} held out",
            *(f"       {note}" for note in notes),
            f"step   {recipe.algorithm.name}, {rollout.prompts} prompts x "
            f"{rollout.group} samples, at most {rollout.max_new_tokens} tokens each, "
            f"learning rate {recipe.optimizer.learning_rate:g}",
        ]
    )


def judge(
    recipe: "Recipe", setup: Setup, policy: Transformer, console: Console, when: str
) -> evaluation.Evaluation | None:
    """Measures accuracy on what is held out, and shows some completions."""
    env = setup.environments.held_out
    if env is None:
        return None
    settings, rollout = recipe.run, recipe.rollout
    sampler = gx.rollout.Greedy()
    if settings.eval_temperature > 0:
        sampler = gx.rollout.Categorical(settings.eval_temperature)
    measured = evaluation.evaluate(
        policy,
        env,
        samples=settings.eval_samples,
        sampler=sampler,
        # As many rows at a time as in training, for which there is memory.
        batch=max(rollout.prompts * rollout.group // settings.eval_samples, 1),
        slots=rollout.slots,
        key=setup.eval_key,
    )
    low, high = measured.interval
    say(
        console,
        f"\nheld-out accuracy {when}: {measured.accuracy:.1%}  "
        f"(95% interval {low:.1%} to {high:.1%}, n = {measured.count:,}; "
        f"length {measured.mean_length:.1f}, truncated {measured.clipped_ratio:.1%})\n",
        style="bold",
    )
    for index in range(min(SHOWN, env.size)):
        prompt = setup.tokenizer.decode(measured.prompts[index]).strip()
        said = measured.tokens[index, 0, : measured.lengths[index, 0]]
        answer = setup.tokenizer.decode(said).strip()
        verdict = "right" if measured.right[index, 0] else "wrong"
        say(console, textwrap.indent(prompt[-PROMPT_TAIL:], "  "), style="dim")
        say(console, textwrap.indent(answer or "(nothing)", "  > "))
        say(console, f"  {verdict}: the answer is {env.answers[index]}\n")
    return measured


def summarize(
    before: evaluation.Evaluation | None = None,
    after: evaluation.Evaluation | None = None,
    *,
    steps: int = 0,
    seconds_total: float | None = None,
    seconds_compile: float | None = None,
) -> dict[str, object]:
    return {
        "accuracy_before": None if before is None else before.accuracy,
        "accuracy_after": None if after is None else after.accuracy,
        "ci95_before": None if before is None else before.interval,
        "ci95_after": None if after is None else after.interval,
        "n_eval": 0 if after is None else after.count,
        "steps": steps,
        "seconds_total": seconds_total,
        "seconds_compile": seconds_compile,
    }


def train(
    recipe: "Recipe",
    setup: Setup,
    directory: files.RunDirectory | None,
    console: Console,
    start: float,
) -> tuple[gx.TrainState, list[dict[str, float]], float]:
    """Compiles the step and takes all of them: the state, metrics, compile seconds."""
    records = []
    if recipe.run.steps == 0:
        return setup.state, records, 0.0
    step = setup.step.compile()
    say(console, f"compiled the step in {step.seconds:.1f} s")

    def report(number: int, metrics: dict[str, float]) -> None:
        elapsed = time.perf_counter() - start
        records.append({"step": number, "time": elapsed, **metrics})
        bar.update(number, metrics)
        if directory is not None:
            directory.log(records[-1])

    with progress.Progress(recipe.run.steps, console) as bar:
        state = loop.fit(
            setup.state, step=step.call, steps=recipe.run.steps, report=report
        )
    return state, records, step.seconds


def run(recipe: "Recipe", out: Path | None, start: float) -> None:
    """A whole run; `start` is when it began, on `time.perf_counter`'s clock."""
    console = Console()
    try:
        directory = None if out is None else files.RunDirectory(out)
        setup = prepare(recipe)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"gsm8k.py: {error}") from None
    say(console, describe(recipe, setup))
    if directory is not None:
        directory.start(recipes.dump(recipe), summarize())
    before = judge(recipe, setup, setup.state.policy, console, "before")
    state, records, seconds_compile = train(recipe, setup, directory, console, start)
    measured = [before]
    if records:
        measured.append(judge(recipe, setup, state.policy, console, "after"))
    after = measured[-1]
    seconds_compile += sum(one.seconds_compile for one in measured if one is not None)
    if directory is not None:
        gx.models.save(state.policy, directory.model, tokenizer=setup.tokenizer)
        plots.plot_curve(
            directory.curve,
            records,
            before=before and (before.accuracy, before.interval),
            after=after and (after.accuracy, after.interval),
        )
    seconds_total = time.perf_counter() - start
    if directory is not None:
        summary = summarize(
            before,
            after,
            steps=len(records),
            seconds_total=seconds_total,
            seconds_compile=seconds_compile,
        )
        directory.finish(summary)
    where = "" if out is None else f"; see {out}"
    say(
        console,
        f"{len(records)} steps in {seconds_total:.0f} s, of which compiling took "
        f"{seconds_compile:.0f} s{where}",
    )
