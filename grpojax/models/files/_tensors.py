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
from ._packed import AlternateTensor
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
    "attention_sinks": "self_attn.sinks",
}
_ROUTERS = {
    "mixtral": "block_sparse_moe.gate.weight",
    "gpt_oss": "mlp.router.weight",
}
# One tensor for each expert.
_EXPERT_NAMES = {"mixtral": "block_sparse_moe.experts.{}.{}.weight"}
_EXPERT_PARTS = {
    "expert_gate": ("gate_proj", "w1"),
    "expert_up": ("up_proj", "w3"),
    "expert_down": ("down_proj", "w2"),
}
_SHARED_EXPERT = {
    "shared_router": "mlp.shared_expert_gate.weight",
    "shared_gate": "mlp.shared_expert.gate_proj.weight",
    "shared_up": "mlp.shared_expert.up_proj.weight",
    "shared_down": "mlp.shared_expert.down_proj.weight",
}
_PACKED_EXPERTS = {
    "expert_gate": "mlp.experts.gate_proj",
    "expert_up": "mlp.experts.up_proj",
    "expert_down": "mlp.experts.down_proj",
    "expert_gate_bias": "mlp.experts.gate_proj_bias",
    "expert_up_bias": "mlp.experts.up_proj_bias",
    "expert_down_bias": "mlp.experts.down_proj_bias",
    "router_bias": "mlp.router.bias",
}
_OF_MLPS = ("gate", "up", "down", "gate_bias", "up_bias", "down_bias")
# Where a norm comes after attention, it has the name that Llama's has before the MLP.
_BEFORE_MLP = "pre_feedforward_layernorm.weight"

_FUSED = {
    "self_attn.qkv_proj.weight": ("query", "key", "value"),
    "mlp.gate_up_proj.weight": ("gate", "up"),
}
"""Phi-3's tensors of several matrices, one below the other."""

_ALTERNATE = {
    "mlp.experts.gate_up_proj": ("expert_gate", "expert_up"),
    "mlp.experts.gate_up_proj_bias": ("expert_gate_bias", "expert_up_bias"),
}
"""Tensors of gpt-oss in which columns of two matrices alternate."""


def tensor_names(field: str, config: TransformerConfig) -> np.ndarray:
    """The names of a weight's tensors, on its leading axes that the files have not.

    Those are none, that of layers, or those of layers and experts.

    **Arguments:**

    - `field`: the weight's.
    - `config`: names depend on the family, and on what its layers have.
    """
    if field in _OUTSIDE_LAYERS:
        return np.array(_OUTSIDE_LAYERS[field])
    layers = range(config.num_layers)
    experts, family = config.switches.experts, config.family or ""
    if field in _OF_MLPS:
        layers = [i for i in layers if not config.has_experts[i]]
    if field in ("router", *_PACKED_EXPERTS, *_SHARED_EXPERT):
        layers = [i for i in layers if config.has_experts[i]]
    if is_packed(config) and field in _PACKED_EXPERTS:
        names = _PACKED_EXPERTS[field]
    elif experts is not None and field in _EXPERT_PARTS:
        part = _EXPERT_PARTS[field][family == "mixtral"]
        name = _EXPERT_NAMES.get(family, "mlp.experts.{}.{}.weight")
        names = [name.format(i, part) for i in range(experts.count)]
    elif field == "router":
        names = _ROUTERS.get(family, "mlp.gate.weight")
    elif field == "mlp_norm" and config.switches.norms != "before":
        names = _BEFORE_MLP
    else:
        names = (_IN_LAYERS | _SHARED_EXPERT)[field]
    below = lambda layer: np.char.add(f"model.layers.{layer}.", names)
    return np.stack([below(layer) for layer in layers])


def is_fused(config: TransformerConfig) -> bool:
    """Whether the family stores several matrices in one tensor."""
    return config.family is not None and FAMILIES[config.family].is_fused


def is_packed(config: TransformerConfig) -> bool:
    """Whether the family stores all experts of a layer in one tensor."""
    return config.family is not None and FAMILIES[config.family].is_packed


def _fused_names(config: TransformerConfig) -> Iterator[tuple[str, list[str]]]:
    """The names of a family's fused tensors, and of those that they consist of."""
    fused = _FUSED if is_fused(config) else _ALTERNATE if is_packed(config) else {}
    for layer in range(config.num_layers):
        for name, fields in fused.items():
            parts = [str(tensor_names(field, config)[layer]) for field in fields]
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
        if is_packed(policy.config):
            split |= {x: AlternateTensor.of(fused, i) for i, x in enumerate(parts)}
            continue
        for part in parts:
            rows = sizes[part][0]
            split[part] = dataclasses.replace(fused, shape=sizes[part], start=start)
            start += rows
    return split


def read_weight(
    stored: Mapping[str, StoredTensor],
    field: str,
    config: TransformerConfig,
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
    names = tensor_names(field, config)
    inner = asked[names.ndim :]
    stored_slices = inner[::-1] if _is_transposed(field, len(inner)) else inner
    names = np.asarray(names[asked[: names.ndim]])
    for at in np.ndindex(names.shape):
        tensor = stored[str(names[at])]
        array[at] = _transpose_hf(field, tensor.read(stored_slices))
        check_finite(tensor, array[at])
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
    """Transposes between Hugging Face's `[out, in]` and our `[in, out]`."""
    return x.T if _is_transposed(field, x.ndim) else x


def _is_transposed(field: str, ndim: int) -> bool:
    """Whether the files have it `[out, in]`: not embeddings, nor packed experts."""
    return field != "embedding" and not field.endswith("_bias") and ndim < 3


def _stored_form(field: str, leaf: Array, index: tuple[int, ...]) -> Array:
    """One tensor of a weight, in the layout of the files."""
    return _transpose_hf(field, leaf[index] if index else leaf)


def stored_forms(policy: Transformer) -> dict[str, Callable[[], Array]]:
    """Functions that compute each tensor of the files from a policy, by name."""
    forms = _forms(policy)
    for name, parts in _fused_names(policy.config):
        join = _alternate if is_packed(policy.config) else _join
        forms[name] = ft.partial(join, [forms.pop(part) for part in parts])
    return forms


def _join(parts: list[Callable[[], Array]]) -> Array:
    return jnp.concatenate([make() for make in parts])


def _alternate(parts: list[Callable[[], Array]]) -> Array:
    one, other = (make() for make in parts)
    return jnp.stack([one, other], axis=-1).reshape(*one.shape[:-1], -1)


def _forms(policy: Transformer) -> dict[str, Callable[[], Array]]:
    """As `stored_forms`, before any are fused."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(policy)
    return {
        str(name): ft.partial(_stored_form, path[-1].name, leaf, index)
        for path, leaf in leaves
        for index, name in np.ndenumerate(tensor_names(path[-1].name, policy.config))
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
