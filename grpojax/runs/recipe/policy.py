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
from ..io.integrity import checksums
from ..io.jsonl import read_tolerant
from ..io.run_directory import ADAPTER, CHECKPOINTS, CONFIG, EVENTS, MODEL, SUMMARY
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
    recipe: Recipe,
    mesh: Mesh | None = None,
    today: datetime.date | None = None,
    *,
    merged: bool = True,
    weights: bool = True,
) -> tuple[Transformer, AbstractTokenizer]:
    """A model, sharded over a mesh if there is one, and its tokenizer.

    `model.path` may lead to a run, whose final policy it is, or while there is none
    that of its last checkpoint; or to one checkpoint.

    **Arguments:**

    - `today`: the date for chat templates that ask for it; by default that of the
        run, if it is one's policy, or the clock's.
    - `merged`: whether the adapters of a run are merged into its weights.
    - `weights`: otherwise its arrays are shapes, and no weights are read.

    **Raises:** `FileNotFoundError` if there is no model, `ValueError` if the
    tokenizer does not fit its vocabulary, or a checkpoint is damaged.
    """
    settings, path = recipe.model, recipe.model.path
    run = store.find_run(Path(path))
    if run is not None:
        checkpoint = _checkpoint(run, Path(path))
        today = today or _day_of(run, checkpoint)
        if checkpoint is not None:
            if not weights:
                own = _own(recipe, checkpoint / store.CONFIG)
                changed = dataclasses.replace(own.model, dtype=settings.dtype)
                own = dataclasses.replace(own, model=changed)
                return load_model(own, mesh, today, weights=False)
            return _from_checkpoint(recipe, checkpoint, mesh, today, merged)
        if not merged:
            if not (run / ADAPTER).is_dir():
                raise ValueError(
                    "The adapters of a run are exported alone. Received the run "
                    f"{str(run)!r}, which trained none: export its model."
                )
            _check_intact(run, ADAPTER)
            base, tokenizer = load_model(_own(recipe, run / CONFIG), mesh, today)
            return models.load_adapters(base, run / ADAPTER), tokenizer
        _check_intact(run, MODEL)
        path = str(run / MODEL)
    if path == SHIPPED:
        path = str(resources.files("grpojax") / "assets" / SHIPPED)
    _check_model(Path(path))
    logger.info("loading the model %s", path)
    load_policy = models.load if weights else models.load_shapes
    policy = load_policy(
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


def base_of(recipe: Recipe) -> str:
    """The model that the adapters of a recipe's model, maybe a run, were added to."""
    path = Path(recipe.model.path)
    run = store.find_run(path)
    if run is None:
        return recipe.model.path
    return _own(recipe, path / (CONFIG if path == run else store.CONFIG)).model.path


def step_of(path: str) -> int:
    """The training step of the policy that `model.path` means; 0 if it is no run's."""
    place = Path(path)
    if place.name == MODEL and store.find_run(place.parent):
        place = place.parent
    run = store.find_run(place)
    checkpoint = None if run is None else _checkpoint(run, place)
    if run is None or checkpoint is not None:
        return 0 if checkpoint is None else int(checkpoint.name)
    # Not the summary: a run that was finished may have been resumed for more steps.
    events, _ = read_tolerant(run / EVENTS, optional=True)
    made = [event.get("step") for event in events if event.get("kind") == "finish"]
    return made[-1] if made and isinstance(made[-1], int) else 0


def build_adapters(recipe: Recipe, policy: Transformer) -> Transformer:
    """The policy with the recipe's adapters, if it has any.

    **Raises:** `ValueError` or `OSError` for adapters that do not fit the policy.
    """
    settings, path = recipe.lora, recipe.lora.path
    if not settings.adapts:
        return policy
    bits = settings.base_bits
    base = policy if bits is None else models.quantize(policy, bits)
    if path is not None:
        _check_base(recipe.model.path, path)
        return models.load_adapters(base, path)
    assert settings.rank is not None
    return models.lora(
        base,
        settings.projections.replace(",", " ").split(),
        rank=settings.rank,
        alpha=settings.alpha,
        key=build_keys(recipe).adapters,
    )


def _check_intact(run: Path, folder: str) -> None:
    """Checks a run's model against the checksums in its summary."""
    wrong = checksums.unlike(run, folder, checksums.of_summary(run / SUMMARY))
    if wrong:
        raise ValueError(
            f"The {folder} of a run is the one that it wrote. In {str(run)!r} "
            f"{', '.join(wrong)} does not match its checksum in {SUMMARY}: it "
            "was changed, damaged or taken from another run. Restore it, or take a "
            f"checkpoint of the run; or name {str(run / folder)!r} itself."
        )


def _check_model(path: Path) -> None:
    """Checks that a directory is not one of adapters."""
    names = ("adapter_config.json", "config.json")
    is_adapter, is_model = ((path / name).is_file() for name in names)
    if is_adapter and not is_model:
        raise ValueError(
            "`model.path` names a model. Received the adapters in "
            f"{str(path)!r}: set lora.path to that folder, and model.path to its base."
        )


def _check_base(model: str, adapter: str) -> None:
    """Checks that adapters are not added to a run's policy, where they are already."""
    if store.find_run(Path(model)) is not None:
        raise ValueError(
            "`lora.path` names adapters of the model that `model.path` names. Received "
            f"lora.path={adapter!r} with the run {model!r}, whose adapters are merged: "
            "to train them on, set model.path to the run's own and lora.path to its "
            "folder `adapter`; for new ones set lora.path=null and lora.rank."
        )


def _checkpoint(run: Path, path: Path) -> Path | None:
    """The checkpoint that a path into a run means; `None` for the final policy."""
    if path == run:
        # Its configuration is written last; of one that was written it may be missing.
        recorded = checksums.of_summary(run / SUMMARY)
        saved = (run / MODEL / "config.json").is_file()
        found = (run / MODEL).is_dir()
        if saved or (found and checksums.unlike(run, MODEL, recorded)):
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


def _own(recipe: Recipe, path: Path) -> Recipe:
    """The recipe in a run's file, but for how its policy is computed with."""
    own = load.parse(Recipe(), path.read_text(encoding="utf-8"))
    settings = recipe.model
    changed = dataclasses.replace(
        own.model,
        compute_dtype=settings.compute_dtype or settings.dtype,
        cache_dtype=settings.cache_dtype,
        remat=settings.remat,
    )
    return dataclasses.replace(own, model=changed)


def _from_checkpoint(
    recipe: Recipe,
    path: Path,
    mesh: Mesh | None,
    today: datetime.date | None,
    merged: bool,
) -> tuple[Transformer, AbstractTokenizer]:
    """The policy of a checkpoint, of its own recipe but for how it is computed with."""
    own = _own(recipe, path / store.CONFIG)
    policy, tokenizer = load_model(own, mesh, today)
    like = TrainState(
        build_adapters(own, policy), None, None, jnp.zeros((), jnp.int32), jr.key(0)
    )
    contents = json.loads((path / store.CONTENTS).read_bytes())
    arrays.check_frozen(path.name, contents.get("frozen"), like)
    logger.info("reading the policy of the checkpoint %s", path)
    found = arrays.restore_policy(path / store.STATE, contents["arrays"], like).policy
    if not merged:
        return found, tokenizer
    dtype = jnp.dtype(recipe.model.dtype)
    cast = lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x
    return jax.tree.map(cast, models.merge(found)), tokenizer
