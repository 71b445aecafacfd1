"""A transformer's weights as tensors of a Hugging Face directory."""

import functools as ft
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Array

from ..transformer import Transformer
from ._directory import CONFIG
from ._safetensors import StoredTensor


_Tensor = TypeVar("_Tensor", np.ndarray, Array)
_Slices = tuple[slice, ...] | None

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
_OUTSIDE_LAYERS = {
    "embedding": EMBEDDING,
    "norm": "model.norm.weight",
    "head": HEAD,
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


def tensor_names(field: str, num_layers: int) -> list[str]:
    """The names of a weight's tensors: one, or one for each layer."""
    if field in _OUTSIDE_LAYERS:
        return [_OUTSIDE_LAYERS[field]]
    return [f"model.layers.{i}.{_IN_LAYERS[field]}" for i in range(num_layers)]


def read_weight(
    stored: Mapping[str, StoredTensor],
    field: str,
    leaf: jax.ShapeDtypeStruct,
    slices: _Slices,
) -> np.ndarray:
    """A slice of a weight, and nothing else, from the files; all of it if `None`.

    **Raises:** `ValueError` with the tensor's name for numbers that are not finite.
    """
    every = (slice(None),) * leaf.ndim
    asked = every if slices is None else slices
    ranges = [range(n)[one] for one, n in zip(asked, leaf.shape, strict=True)]
    array = np.empty([len(one) for one in ranges], leaf.dtype)
    names, rows, inner = tensor_names(field, leaf.shape[0]), array[None], asked
    if field in _IN_LAYERS:
        names, rows, inner = names[asked[0]], array, asked[1:]
    for row, name in zip(rows, names, strict=True):
        stored_slices = inner if field == "embedding" else inner[::-1]
        row[...] = _transpose_hf(field, stored[name].read(stored_slices))
        check_finite(stored[name], row)
    return array


def check_finite(tensor: StoredTensor, values: np.ndarray) -> None:
    """Raises a `ValueError` for values of a tensor that are not finite."""
    if not _is_finite(values):
        raise ValueError(
            f"Weights must be finite numbers. {tensor.path} has others in "
            f"{tensor.name}, read as {values.dtype.name}: copy or download it again, "
            "or choose another dtype."
        )


def _is_finite(x: np.ndarray) -> bool:
    """Whether all numbers are finite: their exponents are not all ones."""
    if x.dtype.itemsize != 2:
        return bool(np.isfinite(x).all())
    # NumPy compares 16-bit floats one by one, and integers by the vector.
    infinity = np.array(np.inf, x.dtype).view(np.uint16)
    return not x.size or bool((x.view(np.uint16) & 0x7FFF).max() < infinity)


def memoize(read: Callable[[_Slices], np.ndarray]) -> Callable[[_Slices], np.ndarray]:
    """A reader with a memory: replicas ask for the same slices."""
    known: dict[str, np.ndarray] = {}

    def recall(slices: _Slices) -> np.ndarray:
        if str(slices) not in known:
            known[str(slices)] = read(slices)
        return known[str(slices)]

    return recall


def _transpose_hf(field: str, x: _Tensor) -> _Tensor:
    """Transposes between Hugging Face's `[out, in]` and our `[in, out]`.

    Embeddings are not transposed.
    """
    return x if field == "embedding" else x.T


def _stored_form(field: str, leaf: Array, index: int) -> Array:
    """One tensor of a weight, in the layout of the files."""
    return _transpose_hf(field, leaf[index] if field in _IN_LAYERS else leaf)


def stored_forms(policy: Transformer) -> dict[str, Callable[[], Array]]:
    """Functions that compute each tensor of the files from a policy, by name."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(policy)
    return {
        name: ft.partial(_stored_form, path[-1].name, leaf, index)
        for path, leaf in leaves
        for index, name in enumerate(tensor_names(path[-1].name, leaf.shape[0]))
    }


def stored_shapes(policy: Transformer) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of the files, from an abstract policy."""

    def make_all(policy):
        return {name: make() for name, make in stored_forms(policy).items()}

    tensors = jax.eval_shape(make_all, policy)
    return {name: tensor.shape for name, tensor in tensors.items()}


def check_tied(head: StoredTensor, embedding: StoredTensor) -> None:
    """Checks that a tied head that is stored all the same equals the embedding."""
    is_alike = (head.dtype, head.shape) == (embedding.dtype, embedding.shape)
    rows = head.shape[0]
    blocks = [(slice(i, min(i + 4096, rows)),) for i in range(0, rows, 4096)]
    if not is_alike or not all(
        np.array_equal(head.read(block), embedding.read(block)) for block in blocks
    ):
        raise ValueError(
            f"A tied head is the embedding. {CONFIG} says tie_word_embeddings = true, "
            f"but {head.name} differs from {embedding.name}: set it to false to use "
            "the head, or remove the head from the file."
        )
