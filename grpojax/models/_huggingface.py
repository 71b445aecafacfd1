"""Transformers in Hugging Face directories: config.json and safetensors."""

import functools as ft
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh, Sharding
from jaxtyping import Array, DTypeLike

from .. import sharding
from ..policy import AbstractPolicy
from ..text import AbstractTokenizer
from ._huggingface_config import config_from_huggingface, config_to_huggingface
from ._huggingface_files import (
    check_tensors,
    CONFIG,
    GENERATION,
    model_directory,
    read_json,
    replacing,
    stored_tensors,
    WEIGHTS,
    write_json,
)
from ._matrix import Int8Matrix, LowRankMatrix
from ._safetensors import DTYPES, follow, StoredTensor, write_file
from ._transformer import Transformer


_Tensor = TypeVar("_Tensor", np.ndarray, Array)
_Part = tuple[slice, ...] | None

_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"
_OUTSIDE_LAYERS = {
    "embedding": _EMBEDDING,
    "norm": "model.norm.weight",
    "head": _HEAD,
}
_IN_LAYERS = {
    "attention_norm": "input_layernorm.weight",
    "query": "self_attn.q_proj.weight",
    "key": "self_attn.k_proj.weight",
    "value": "self_attn.v_proj.weight",
    "output": "self_attn.o_proj.weight",
    "query_bias": "self_attn.q_proj.bias",
    "key_bias": "self_attn.k_proj.bias",
    "value_bias": "self_attn.v_proj.bias",
    "query_norm": "self_attn.q_norm.weight",
    "key_norm": "self_attn.k_norm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}


def load(
    path: str | os.PathLike[str],
    *,
    dtype: DTypeLike | None = None,
    compute_dtype: DTypeLike | None = None,
    cache_dtype: DTypeLike | None = None,
    remat: str = "elementwise",
    mesh: Mesh | None = None,
) -> Transformer:
    """Loads a Llama, Mistral, Qwen2 or Qwen3 from a Hugging Face directory.

    Everything is checked before any array is made.

    **Arguments:**

    - `path`: a directory with config.json and safetensors in one file or many, or the
        id of a model on the Hugging Face hub (`organization/name`).
    - `dtype`: of the weights, float32, float16 or bfloat16; the file's own by default
        (float32 if it mixes several).
    - `compute_dtype`: of the matrix products; the weights' own by default.
    - `cache_dtype`, `remat`: see `Transformer`.
    - `mesh`: if given, weights lie where `sharding.shardings` says. Each device's part
        is read from the files by itself: no device, and no host, ever holds the whole
        of a weight that is cut.

    **Raises:** `FileNotFoundError` when files are missing or the hub does not give
    them; `ValueError` when the architecture is not implemented, or tensors are missing,
    unexpected, of another shape than config.json says, or cut off.
    """
    directory = model_directory(path)
    config = config_from_huggingface(read_json(directory / CONFIG))
    stored = stored_tensors(directory)
    abstract = ft.partial(
        eqx.filter_eval_shape, Transformer, config, remat=remat, key=jr.key(0)
    )
    make_all = lambda policy: {k: make() for k, make in _stored_forms(policy).items()}
    tensors = jax.eval_shape(make_all, abstract())
    expected = {name: tensor.shape for name, tensor in tensors.items()}
    copy = stored.pop(_HEAD, None) if config.tied else None
    check_tensors(stored, expected)
    if copy is not None:
        _check_tied(copy, stored[_EMBEDDING])
    if dtype is None:
        dtype = _common_dtype(DTYPES[stored[name].dtype] for name in expected)
    for choice in (dtype, dtype if compute_dtype is None else compute_dtype):
        if jnp.dtype(choice) not in DTYPES.values():
            raise ValueError(
                "load(dtype=..., compute_dtype=...) takes float32, float16 or bfloat16."
                f" Received {jnp.dtype(choice).name}."
            )

    skeleton = abstract(
        dtype=dtype, compute_dtype=compute_dtype, cache_dtype=cache_dtype
    )
    reader = lambda path, leaf: ft.partial(_read, stored, path[-1].name, leaf)

    def whole(path: tuple, leaf: jax.ShapeDtypeStruct) -> Array:
        return jnp.array(reader(path, leaf)(None))

    def cut(path: tuple, leaf: jax.ShapeDtypeStruct, place: Sharding) -> Array:
        read = _once(reader(path, leaf))
        return jax.make_array_from_callback(leaf.shape, place, read)

    if mesh is None:
        return jax.tree_util.tree_map_with_path(whole, skeleton)
    places = sharding.shardings(skeleton, mesh)
    return jax.tree_util.tree_map_with_path(cut, skeleton, places)


def save(
    policy: Transformer,
    path: str | os.PathLike[str],
    *,
    tokenizer: AbstractTokenizer | None = None,
) -> None:
    """Writes a directory that `transformers`, and `load`, read back bit for bit.

    Files are written under other names and renamed once all are complete. Of a policy
    that is spread over devices one tensor at a time is put together. All processes of a
    run call this, and the first one writes.

    **Arguments:**

    - `policy`: weights are written in their own dtype.
    - `path`: the directory; made if there is none, files in it replaced if there is.
    - `tokenizer`: if given, its files are written too, and its end and padding tokens
        are declared.

    **Raises:** `NotADirectoryError` if `path` is a file; `ValueError` if no
    architecture of `transformers` has the policy's shape, the tokenizer is too large
    for it, or weights are adapted or 8 bits. Nothing is written then.
    """
    for name, matrix in vars(policy.layers).items():
        if isinstance(matrix, Int8Matrix | LowRankMatrix):
            raise ValueError(
                "save(policy, path) writes plain weights, as `transformers` has them. "
                f"Received a policy whose `{name}` is {type(matrix).__name__}: write "
                "`models.merge(policy)`, or its adapters alone with "
                "`models.save_adapters`."
            )
    special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    if tokenizer is not None:
        check_tokenizer(policy, tokenizer)
        ends = list(tokenizer.end_tokens)
        special = {
            "bos_token_id": tokenizer.bos_token,
            "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
            "pad_token_id": tokenizer.pad_token,
        }
    dtype = _common_dtype(leaf.dtype for leaf in jax.tree.leaves(policy))
    config = config_to_huggingface(policy.config)
    config |= {"torch_dtype": dtype.name} | special
    if jax.process_index() > 0:
        return follow(_stored_forms(policy))
    with replacing(path) as unfinished:
        generation = special
        if tokenizer is not None:
            tokenizer.save(unfinished)
            if (unfinished / GENERATION).exists():
                generation = read_json(unfinished / GENERATION) | special
        write_file(unfinished / WEIGHTS, _stored_forms(policy))
        write_json(unfinished / GENERATION, generation)
        write_json(unfinished / CONFIG, config)


def check_tokenizer(policy: AbstractPolicy, tokenizer: AbstractTokenizer) -> None:
    """Raises a `ValueError` if a tokenizer has tokens that the policy has not.

    The other way round is common: vocabularies are padded to round numbers.
    """
    if tokenizer.vocab_size > policy.vocab_size:
        raise ValueError(
            "Every token needs a row of the embedding, so a tokenizer must not be "
            f"larger than the policy's vocabulary. Received {tokenizer.vocab_size} "
            f"tokens for a vocabulary of {policy.vocab_size}: take the tokenizer that "
            "came with the model."
        )


def tensor_names(field: str, num_layers: int) -> list[str]:
    """The tensors that make up one weight: one, or one of each layer."""
    if field in _OUTSIDE_LAYERS:
        return [_OUTSIDE_LAYERS[field]]
    return [f"model.layers.{i}.{_IN_LAYERS[field]}" for i in range(num_layers)]


def _read(
    stored: Mapping[str, StoredTensor],
    field: str,
    leaf: jax.ShapeDtypeStruct,
    part: _Part,
) -> np.ndarray:
    """A part of a weight, and nothing else, from the files; all of it if `None`."""
    asked = (slice(None),) * leaf.ndim if part is None else part
    ranges = [range(n)[one] for one, n in zip(asked, leaf.shape, strict=True)]
    array = np.empty([len(one) for one in ranges], leaf.dtype)
    names, rows, inner = tensor_names(field, leaf.shape[0]), array[None], asked
    if field in _IN_LAYERS:
        names, rows, inner = names[asked[0]], array, asked[1:]
    for row, name in zip(rows, names, strict=True):
        lies = inner if field == "embedding" else inner[::-1]
        row[...] = _turned(field, stored[name].read(lies))
    return array


def _once(read: Callable[[_Part], np.ndarray]) -> Callable[[_Part], np.ndarray]:
    """A reader that remembers: devices of different `data` hold the same."""
    known: dict[str, np.ndarray] = {}

    def recall(part: _Part) -> np.ndarray:
        if str(part) not in known:
            known[str(part)] = read(part)
        return known[str(part)]

    return recall


def _turned(field: str, x: _Tensor) -> _Tensor:
    """Between output-first, as stored, and input-first; embeddings are read by row."""
    return x if field == "embedding" else x.T


def _stored_form(field: str, leaf: Array, index: int) -> Array:
    """One tensor of a weight, as it is stored."""
    return _turned(field, leaf[index] if field in _IN_LAYERS else leaf)


def _stored_forms(policy: Transformer) -> dict[str, Callable[[], Array]]:
    """Every tensor of a policy as it is stored, by name, made when called."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(policy)
    return {
        name: ft.partial(_stored_form, path[-1].name, leaf, index)
        for path, leaf in leaves
        for index, name in enumerate(tensor_names(path[-1].name, leaf.shape[0]))
    }


def _common_dtype(dtypes: Iterable[np.dtype]) -> np.dtype:
    """Theirs if they are all the same, else float32, which holds the others exactly."""
    different = set(dtypes)
    return different.pop() if len(different) == 1 else np.dtype(np.float32)


def _check_tied(head: StoredTensor, embedding: StoredTensor) -> None:
    """Some files keep a tied head all the same: it must be a copy of the embedding."""
    form = lambda tensor: (tensor.dtype, tensor.shape)
    rows = head.shape[0]
    parts = [(slice(i, min(i + 4096, rows)),) for i in range(0, rows, 4096)]
    same = lambda part: np.array_equal(head.read(part), embedding.read(part))
    if form(head) != form(embedding) or not all(map(same, parts)):
        raise ValueError(
            f"A tied head is the embedding. {CONFIG} says tie_word_embeddings = true, "
            f"but {head.name} differs from {embedding.name}: set it to false if the "
            "head is meant, or take the head out of the file."
        )
