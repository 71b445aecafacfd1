"""A transformer's weights as tensors of a Hugging Face directory."""

import dataclasses
import functools as ft
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..transformer import Transformer, TransformerConfig
from ._directory import CONFIG
from ._safetensors import StoredTensor
from .config import FAMILIES


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
    "output_bias": "self_attn.o_proj.bias",
    "gate_bias": "mlp.gate_proj.bias",
    "up_bias": "mlp.up_proj.bias",
    "down_bias": "mlp.down_proj.bias",
    "attention_post_norm": "post_attention_layernorm.weight",
    "mlp_post_norm": "post_feedforward_layernorm.weight",
}
# Where a norm comes after attention, it has the name that Llama's has before the MLP.
_BEFORE_MLP = "pre_feedforward_layernorm.weight"

_FUSED = {
    "self_attn.qkv_proj.weight": ("query", "key", "value"),
    "mlp.gate_up_proj.weight": ("gate", "up"),
}
"""Phi-3's tensors of several matrices, one below the other."""


def tensor_names(field: str, num_layers: int, norms: str = "before") -> list[str]:
    """The names of a weight's tensors: one, or one for each layer.

    **Arguments:**

    - `field`: the weight's.
    - `num_layers`: the number of layers.
    - `norms`: as in `Block`; the names of norms differ by where they are.
    """
    if field in _OUTSIDE_LAYERS:
        return [_OUTSIDE_LAYERS[field]]
    name = _IN_LAYERS[field]
    if field == "mlp_norm" and norms != "before":
        name = _BEFORE_MLP
    return [f"model.layers.{i}.{name}" for i in range(num_layers)]


def is_fused(config: TransformerConfig) -> bool:
    """Whether the family stores several matrices in one tensor."""
    return config.family is not None and FAMILIES[config.family].is_fused


def _fused_names(config: TransformerConfig) -> Iterator[tuple[str, list[str]]]:
    """The names of a family's fused tensors, and of those that they consist of."""
    if not is_fused(config):
        return
    for layer in range(config.num_layers):
        for name, fields in _FUSED.items():
            parts = [tensor_names(field, layer + 1)[layer] for field in fields]
            yield f"model.layers.{layer}.{name}", parts


def split_fused(
    stored: Mapping[str, StoredTensor], policy: Transformer
) -> dict[str, StoredTensor]:
    """The tensors with those of a family that fuses matrices apart.

    **Arguments:**

    - `stored`: the tensors of the files.
    - `policy`: an abstract one.
    """
    split = dict(stored)
    sizes = {name: form.shape for name, form in _abstract_forms(policy).items()}
    for name, parts in _fused_names(policy.config):
        fused, start = split.pop(name), 0
        for part in parts:
            rows = sizes[part][0]
            split[part] = dataclasses.replace(fused, shape=sizes[part], start=start)
            start += rows
    return split


def read_weight(
    stored: Mapping[str, StoredTensor],
    field: str,
    norms: str,
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
    names, rows, inner = tensor_names(field, leaf.shape[0], norms), array[None], asked
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
    forms = _forms(policy)
    for name, parts in _fused_names(policy.config):
        forms[name] = ft.partial(_join, [forms.pop(part) for part in parts])
    return forms


def _join(parts: list[Callable[[], Array]]) -> Array:
    return jnp.concatenate([make() for make in parts])


def _forms(policy: Transformer) -> dict[str, Callable[[], Array]]:
    """As `stored_forms`, before any are fused."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(policy)
    norms = policy.config.switches.norms
    return {
        name: ft.partial(_stored_form, path[-1].name, leaf, index)
        for path, leaf in leaves
        for index, name in enumerate(tensor_names(path[-1].name, leaf.shape[0], norms))
    }


def _abstract_forms(
    policy: Transformer, forms: Callable[..., Mapping[str, Callable]] = _forms
) -> dict[str, jax.ShapeDtypeStruct]:
    def make_all(policy):
        return {name: make() for name, make in forms(policy).items()}

    return jax.eval_shape(make_all, policy)


def stored_shapes(policy: Transformer) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of the files, from an abstract policy."""
    tensors = _abstract_forms(policy, stored_forms)
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
