"""Reading and writing transformers as Hugging Face model directories."""

import functools as ft
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh, Sharding
from jaxtyping import Array, DTypeLike

from ... import sharding
from ...policy import AbstractPolicy
from ...text import AbstractTokenizer
from ..matrix import AbstractMatrix
from ..transformer import Transformer, TransformerConfig
from ._directory import (
    check_tensors,
    CONFIG,
    GENERATION,
    model_directory,
    read_json,
    staged,
    stale_shards,
    stored_tensors,
    WEIGHTS,
    write_json,
)
from ._packed import unpack_mxfp4
from ._safetensors import contribute, DTYPES, write_file
from ._tensors import (
    check_tied,
    EMBEDDING,
    HEAD,
    is_packed,
    memoize,
    read_weight,
    split_fused,
    stored_forms,
    stored_shapes,
)
from .config import config_from_huggingface, config_to_huggingface


def load(
    path: str | os.PathLike[str],
    *,
    dtype: DTypeLike | None = None,
    compute_dtype: DTypeLike | None = None,
    cache_dtype: DTypeLike | None = None,
    remat: str = "elementwise",
    mesh: Mesh | None = None,
) -> Transformer:
    """A transformer from a Hugging Face model directory.

    Its family is one that `config_from_huggingface` takes. Files are checked before any
    array is allocated.

    **Arguments:**

    - `path`: a directory with config.json and safetensors, in one file or in shards, or
        the id of a model on the Hugging Face hub (`organization/name`).
    - `dtype`: of the weights, float32, float16 or bfloat16; the file's own by default
        (float32 if it mixes several).
    - `compute_dtype`: of the matrix products; the weights' own by default.
    - `cache_dtype`, `remat`: see `Transformer`.
    - `mesh`: if given, weights are placed as `sharding.shardings` says. Each device's
        shard is read from the files separately: neither a device nor a host ever holds
        all of a sharded weight.

    **Returns:** the policy.

    **Raises:** `FileNotFoundError` for files that are missing or cannot be downloaded;
    `ValueError` for an architecture that is not implemented, and for tensors that are
    missing, unexpected, truncated, or of another shape than config.json says.

    !!! example

        ```python
        policy = models.load("Qwen/Qwen3-0.6B", compute_dtype="bfloat16")
        ```
    """
    config = _described(path)
    directory = model_directory(path)
    stored = stored_tensors(directory)
    if is_packed(config):
        stored = unpack_mxfp4(stored)
    abstract = _abstract(config, remat)
    expected = stored_shapes(abstract())
    tied_head = stored.pop(HEAD, None) if config.tied else None
    check_tensors(stored, expected)
    if tied_head is not None:
        check_tied(tied_head, stored[EMBEDDING])
    if dtype is None:
        dtype = _common_dtype(DTYPES[stored[name].dtype] for name in expected)
    _check_dtypes(dtype, compute_dtype)
    skeleton = abstract(
        dtype=dtype, compute_dtype=compute_dtype, cache_dtype=cache_dtype
    )
    tensors = split_fused(stored, skeleton)

    def reader(path: tuple, leaf: jax.ShapeDtypeStruct):
        return ft.partial(read_weight, tensors, path[-1].name, config, leaf)

    def load_replicated(path: tuple, leaf: jax.ShapeDtypeStruct) -> Array:
        return jnp.array(reader(path, leaf)(None))

    def load_sharded(
        path: tuple, leaf: jax.ShapeDtypeStruct, placement: Sharding
    ) -> Array:
        read = memoize(reader(path, leaf))
        return jax.make_array_from_callback(leaf.shape, placement, read)

    if mesh is None:
        return jax.tree_util.tree_map_with_path(load_replicated, skeleton)
    placements = sharding.shardings(skeleton, mesh)
    return jax.tree_util.tree_map_with_path(load_sharded, skeleton, placements)


def load_shapes(
    path: str | os.PathLike[str],
    *,
    dtype: DTypeLike,
    compute_dtype: DTypeLike | None = None,
    cache_dtype: DTypeLike | None = None,
    remat: str = "elementwise",
    mesh: Mesh | None = None,
) -> Transformer:
    """The shapes of what `load` returns, for tracing and compiling without weights.

    **Arguments:** those of `load`. Of the directory, or of the model on the hub, only
    config.json is read, so `dtype` must be given.

    **Returns:** the policy, with a `jax.ShapeDtypeStruct` in the place of every array,
    which has its sharding if there is a mesh.

    **Raises:** as `load`, but nothing for weights that are missing or do not fit.

    !!! example

        ```python
        policy = models.load_shapes("Qwen/Qwen3-30B-A3B", dtype="bfloat16")
        sum(x.size for x in jax.tree.leaves(policy))
        ```
    """
    config = _described(path)
    _check_dtypes(dtype, compute_dtype)
    skeleton = _abstract(config, remat)(
        dtype=dtype, compute_dtype=compute_dtype, cache_dtype=cache_dtype
    )
    return skeleton if mesh is None else sharding.place(skeleton, mesh)


def _described(path: str | os.PathLike[str]) -> TransformerConfig:
    """A model's configuration. What is not implemented costs a download of one file."""
    described = model_directory(path, config_only=True)
    return config_from_huggingface(read_json(described / CONFIG))


def _abstract(config: TransformerConfig, remat: str) -> Callable[..., Transformer]:
    """A function from dtypes to the shapes of a transformer."""
    return ft.partial(
        eqx.filter_eval_shape, Transformer, config, remat=remat, key=jr.key(0)
    )


def _check_dtypes(dtype: DTypeLike, compute_dtype: DTypeLike | None) -> None:
    for choice in (dtype, dtype if compute_dtype is None else compute_dtype):
        if jnp.dtype(choice) not in DTYPES.values():
            raise ValueError(
                "load(dtype=..., compute_dtype=...) takes float32, float16 or bfloat16."
                f" Received {jnp.dtype(choice).name}."
            )


def save(
    policy: Transformer,
    path: str | os.PathLike[str],
    *,
    tokenizer: AbstractTokenizer | None = None,
) -> None:
    """Writes a model directory that `transformers` and `load` read back bit for bit.

    Files are written under temporary names and renamed when all are complete. A sharded
    policy is gathered one tensor at a time. All processes of a run call this, and
    process 0 writes.

    **Arguments:**

    - `policy`: weights are written in their own dtype.
    - `path`: the directory; created if it does not exist. Files of the same name are
        replaced, and the shards of a model there and the files of another tokenizer
        are removed. What its generation_config.json declares stays if the tokenizer
        does not declare something else.
    - `tokenizer`: if given, its files are written too, and its end and padding tokens
        are declared in config.json and generation_config.json. Otherwise those that
        `path` declares already stay, and no others are written.

    **Raises:** `NotADirectoryError` if `path` is a file; `ValueError` if no
    architecture of `transformers` has the policy's configuration, the tokenizer is
    larger than the policy's vocabulary, or matrices are quantized or have adapters.
    Nothing is written then.

    !!! example

        ```python
        models.save(state.policy, "out/model", tokenizer=tokenizer)
        ```
    """
    for name, matrix in policy.layers.projections.items():
        if isinstance(matrix, AbstractMatrix):
            raise ValueError(
                "save(policy, path) writes dense weights, as `transformers` reads "
                f"them. Received a policy whose `{name}` is "
                f"{type(matrix).__name__}: write "
                "`models.merge(policy)`, or its adapters alone with "
                "`models.save_adapters`."
            )
    if tokenizer is not None:
        check_tokenizer(policy, tokenizer)
    dtype = _common_dtype(leaf.dtype for leaf in jax.tree.leaves(policy))
    config = config_to_huggingface(policy.config) | {"torch_dtype": dtype.name}
    if jax.process_index() > 0:
        return contribute(stored_forms(policy))

    def stale(directory: Path) -> list[Path]:
        others = [] if tokenizer is None else tokenizer.files.stale(directory)
        return [*stale_shards(directory), *others]

    with staged(path, stale) as staging:
        if tokenizer is not None:
            tokenizer.save(staging)
        generation = _json_if_there(staging / GENERATION)
        generation = generation or _json_if_there(Path(path) / GENERATION)
        special = _special_ids(tokenizer, generation, Path(path))
        write_file(staging / WEIGHTS, stored_forms(policy))
        if generation | special:
            write_json(staging / GENERATION, generation | special)
        write_json(staging / CONFIG, config | special)


def _special_ids(
    tokenizer: AbstractTokenizer | None, generation: dict[str, object], directory: Path
) -> dict[str, object]:
    """The ids of the special tokens: the tokenizer's, or what a directory declares.

    Without a tokenizer an id that is not declared is not known: `null` would say that
    the model has no such token.
    """
    sources: list[dict[str, object]] = [generation]
    if tokenizer is None:
        sources.insert(0, _json_if_there(directory / CONFIG))
    else:
        ends = list(tokenizer.end_tokens)
        sources.append(
            {
                "bos_token_id": tokenizer.bos_token,
                "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
                "pad_token_id": tokenizer.pad_token,
            }
        )
    roles = [f"{role}_token_id" for role in ("bos", "eos", "pad")]
    declared: dict[str, object] = {}
    if tokenizer is not None:
        declared |= dict.fromkeys(roles)
    for values in sources:  # Nothing replaces a value by none.
        known = {role: values.get(role) for role in roles}
        declared |= {role: x for role, x in known.items() if x is not None}
    return declared


def _json_if_there(path: Path) -> dict[str, object]:
    return read_json(path) if path.is_file() else {}


def check_tokenizer(policy: AbstractPolicy, tokenizer: AbstractTokenizer) -> None:
    """Checks that a policy's vocabulary contains a tokenizer's tokens.

    It may be larger: vocabularies are padded to round numbers.

    **Raises:** `ValueError` if the tokenizer has more tokens.
    """
    if tokenizer.vocab_size > policy.vocab_size:
        raise ValueError(
            "Every token needs a row of the embedding, so a tokenizer must not be "
            f"larger than the policy's vocabulary. Received {tokenizer.vocab_size} "
            f"tokens for a vocabulary of {policy.vocab_size}: use the tokenizer that "
            "came with the model."
        )


def _common_dtype(dtypes: Iterable[np.dtype]) -> np.dtype:
    """The dtype if all are the same, else float32, which represents all exactly."""
    different = set(dtypes)
    return different.pop() if len(different) == 1 else np.dtype(np.float32)
