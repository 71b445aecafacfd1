"""The policy of a recipe: from a model, a run or one of its checkpoints."""

import dataclasses
import datetime
import json
import logging
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import Array, Key

from ... import models
from ...models import Transformer
from ...text import AbstractTokenizer, load_tokenizer
from ...types import TrainState
from ..checkpoint import arrays, files as store, manifest
from ..io.run_directory import CHECKPOINTS, MODEL
from . import load
from .schema import Recipe


logger = logging.getLogger(__name__)

SHIPPED = "gsm8k-tiny"
"""The name of the model that comes with the package."""


class Keys(NamedTuple):
    """Root PRNG keys of a run."""

    train: Key[Array, ""]
    evaluate: Key[Array, ""]
    adapters: Key[Array, ""]


def build_keys(recipe: Recipe) -> Keys:
    """Root PRNG keys derived from `run.seed`."""
    key = jr.key(recipe.run.seed)
    return Keys(*jr.split(key), adapters=jr.fold_in(key, 2))


def load_model(
    recipe: Recipe, mesh: Mesh | None = None, today: datetime.date | None = None
) -> tuple[Transformer, AbstractTokenizer]:
    """A model, sharded over a mesh if there is one, and its tokenizer.

    `model.path` may lead to a run, whose final policy it is, or while there is none
    that of its last checkpoint; or to one checkpoint. Adapters are merged.

    **Arguments:**

    - `today`: the date for chat templates that ask for it; by default that of the
        run, if it is one's policy, or the clock's.

    **Raises:** `FileNotFoundError` if there is no model, `ValueError` if the
    tokenizer does not fit its vocabulary, or a checkpoint is damaged.
    """
    settings, path = recipe.model, recipe.model.path
    run = store.find_run(Path(path))
    if run is not None:
        checkpoint = _checkpoint(run, Path(path))
        today = today or _day_of(run, checkpoint)
        if checkpoint is not None:
            return _from_checkpoint(recipe, checkpoint, mesh, today)
        path = str(run / MODEL)
    if path == SHIPPED:
        path = str(resources.files("grpojax") / "assets" / SHIPPED)
    logger.info("loading the model %s", path)
    policy = models.load(
        path,
        dtype=jnp.dtype(settings.dtype),
        compute_dtype=settings.compute_dtype and jnp.dtype(settings.compute_dtype),
        cache_dtype=settings.cache_dtype and jnp.dtype(settings.cache_dtype),
        remat=settings.remat,
        mesh=mesh,
    )
    tokenizer = load_tokenizer(path, today=today)
    models.check_tokenizer(policy, tokenizer)
    return policy, tokenizer


def build_adapters(recipe: Recipe, policy: Transformer) -> Transformer:
    """The policy with the recipe's adapters, if it has any."""
    settings = recipe.lora
    if settings.rank is None:
        return policy
    return models.lora(
        models.quantize(policy) if settings.int8_base else policy,
        settings.projections.replace(",", " ").split(),
        rank=settings.rank,
        alpha=settings.alpha,
        key=build_keys(recipe).adapters,
    )


def _checkpoint(run: Path, path: Path) -> Path | None:
    """The checkpoint that a path into a run means; `None` for the final policy."""
    if path == run:
        if (run / MODEL).is_dir():
            return None
        step, problems = store.last_intact(run / CHECKPOINTS)
        if step is None:
            raise FileNotFoundError(
                "A run has a model when it is finished, and checkpoints before. "
                f"{str(run)!r} has neither. {' '.join(problems)} Let it run on, or "
                "name another one."
            )
        return run / CHECKPOINTS / str(step)
    known = store.steps(run / CHECKPOINTS)
    if path.name not in map(str, known):
        raise FileNotFoundError(
            f"A checkpoint is named by its step. There is none at {str(path)!r}: the "
            f"run has those of {', '.join(map(str, known)) or 'no step'}."
        )
    problem = manifest.verify(path)
    if problem is not None:
        raise ValueError(f"The checkpoint {str(path)!r} cannot be used: {problem}.")
    return path


def _day_of(run: Path, checkpoint: Path | None) -> datetime.date | None:
    """The date that the chat template of a run was told."""
    if checkpoint is None:
        contents = store.saved_contents(run / CHECKPOINTS)
    else:
        contents = json.loads((checkpoint / store.CONTENTS).read_bytes())
    metadata = contents.get("metadata")
    today = metadata.get("today") if isinstance(metadata, dict) else None
    return None if today is None else datetime.date.fromisoformat(today)


def _from_checkpoint(
    recipe: Recipe, path: Path, mesh: Mesh | None, today: datetime.date | None
) -> tuple[Transformer, AbstractTokenizer]:
    """The policy of a checkpoint, of its own recipe but for how it is computed with."""
    own = load.parse(Recipe(), (path / store.CONFIG).read_text(encoding="utf-8"))
    settings = recipe.model
    changed = dataclasses.replace(
        own.model,
        compute_dtype=settings.compute_dtype or settings.dtype,
        cache_dtype=settings.cache_dtype,
        remat=settings.remat,
    )
    own = dataclasses.replace(own, model=changed)
    policy, tokenizer = load_model(own, mesh, today)
    like = TrainState(
        build_adapters(own, policy), None, None, jnp.zeros((), jnp.int32), jr.key(0)
    )
    contents = json.loads((path / store.CONTENTS).read_bytes())
    arrays.check_frozen(path.name, contents.get("frozen"), like)
    logger.info("reading the policy of the checkpoint %s", path)
    found = arrays.restore_policy(path / store.STATE, contents["arrays"], like).policy
    dtype = jnp.dtype(settings.dtype)
    cast = lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x
    return jax.tree.map(cast, models.merge(found)), tokenizer
