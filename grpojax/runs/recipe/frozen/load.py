"""Frozen policies from their own paths, of the same tokenizer."""

import dataclasses
from typing import Any

import numpy as np
from jax.sharding import Mesh

from .... import models
from ....models import Transformer
from ....text import AbstractTokenizer
from ..policy import load_model
from ..schema import Lora, Recipe


def load_frozen(
    key: str,
    recipe: Recipe,
    tokenizer: AbstractTokenizer,
    mesh: Mesh | None,
    path: str,
    *,
    dtype: Any = None,
) -> Transformer:
    """A frozen model that reads the policy's tokens.

    **Arguments:**

    - `key`: of the recipe, for messages.
    - `recipe`: says how models are computed with.
    - `tokenizer`: the policy's.
    - `mesh`: over which the weights are sharded, if there is one.
    - `path`: as `model.path`.
    - `dtype`: of the weights; by default that of the policy.

    **Raises:** `ValueError` for a model of another tokenizer, and as `load_model`.
    """
    settings = dataclasses.replace(
        recipe.model, path=path, dtype=dtype or recipe.model.dtype
    )
    other = dataclasses.replace(recipe, model=settings, lora=Lora())
    policy, own = load_model(other, mesh)
    check_same_tokenizer(key, path, tokenizer, own)
    return policy


def load_teacher(
    recipe: Recipe, tokenizer: AbstractTokenizer, mesh: Mesh | None = None
) -> Transformer | None:
    """The teacher of a recipe, if it has one; see `load_frozen`."""
    settings = recipe.teacher
    if settings.path is None:
        return None
    given = "teacher.path", recipe, tokenizer, mesh, settings.path
    teacher = load_frozen(*given, dtype=settings.dtype)
    return teacher if settings.bits is None else models.quantize(teacher, settings.bits)


def check_same_tokenizer(
    key: str, path: str, one: AbstractTokenizer, other: AbstractTokenizer
) -> None:
    """Raises a `ValueError` unless ids mean the same tokens to two models."""
    tables = one.token_bytes, other.token_bytes
    same = one.vocab_size == other.vocab_size and all(
        np.array_equal(getattr(tables[0], x), getattr(tables[1], x))
        for x in ("table", "length")
    )
    count = min(one.vocab_size, other.vocab_size)
    differs = (i for i in range(count) if one.piece(i) != other.piece(i))
    first = next(differs, None)
    if same and first is None:
        return
    found = f"{other.vocab_size} tokens for {one.vocab_size}"
    if first is not None:
        found = f"the token {first}: {other.piece(first)!r} for {one.piece(first)!r}"
    raise ValueError(
        f"`{key}` names a model that reads the policy's tokens, so both have one "
        f"tokenizer. Received {path!r}, which differs in {found}: name a model of the "
        "same family."
    )
