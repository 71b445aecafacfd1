"""LoRA adapters in PEFT's format: adapter_config.json and safetensors."""

import functools as ft
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..matrix import matrix_shape
from ..transformer import (
    adapters,
    attach,
    check_projections,
    PROJECTIONS,
    Transformer,
)
from ._directory import check_tensors, read_json, staged, write_json
from ._safetensors import contribute, read_header, StoredTensor, write_file
from ._tensors import check_finite, tensor_names


_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"

# Keys of an adapter's origin, and of PEFT's own training.
_IGNORED = {
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",  # Derived from the tensors, which have no patterns.
    "task_type",
}
_READ = {"peft_type", "r", "lora_alpha", "use_rslora"}
# For all other keys, the values that change nothing.
_ONLY = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian")}
_OFF = (None, False, {}, [])


def save_adapters(
    policy: Transformer, path: str | os.PathLike[str], *, base: str | None = None
) -> None:
    """Writes a policy's adapters in PEFT's format.

    **Arguments:**

    - `policy`: with adapters of one rank and one alpha.
    - `path`: the directory; created if it does not exist. Files of the same name are
        replaced.
    - `base`: the name or the path of the base model, for adapter_config.json.

    **Raises:** `ValueError` if there are no adapters, or of several ranks or alphas;
    `NotADirectoryError` if `path` is a file. Nothing is written then.

    !!! example

        ```python
        models.save_adapters(state.policy, "out/adapter", base="Qwen/Qwen3-0.6B")
        ```
    """
    found = adapters(policy)
    if not found:
        raise ValueError(
            "save_adapters(policy, path) writes adapters. Received a policy that has "
            "none: write it with `models.save`."
        )
    kinds = {(adapter.rank, adapter.alpha) for adapter in found.values()}
    if len(kinds) > 1:
        raise ValueError(
            "Adapters are saved with one rank and one alpha. Received "
            f"(rank, alpha) = {', '.join(map(str, sorted(kinds)))}: `models.merge` the "
            "policy and write it with `models.save`."
        )
    ((rank, alpha),) = kinds
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "target_modules": [tensor_names(name, 1)[0].split(".")[-2] for name in found],
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }
    transposed = lambda factor, layer: factor[layer].T
    tensors = {
        name: ft.partial(transposed, factor, layer)
        for field, adapter in found.items()
        for letter, factor in (("A", adapter.a), ("B", adapter.b))
        for layer, name in enumerate(_names(field, letter, len(factor)))
    }
    if jax.process_index() > 0:
        return contribute(tensors)
    with staged(path) as staging:
        write_file(staging / _WEIGHTS, tensors)
        write_json(staging / _CONFIG, config)


def load_adapters(policy: Transformer, path: str | os.PathLike[str]) -> Transformer:
    """The policy with adapters that PEFT or `save_adapters` wrote to a directory.

    Files are checked before any array is allocated.

    **Arguments:**

    - `policy`: the base model; its weights may be 8 bits.
    - `path`: the directory.

    **Returns:** the adapted policy; it shares the weights of `policy`.

    **Raises:** `FileNotFoundError` for missing files; `ValueError` for settings that
    change the arithmetic in a way that is not implemented (DoRA, rank patterns, trained
    biases ...), and for tensors that are missing, unexpected or of another shape than
    the policy's.

    !!! example

        ```python
        adapted = models.load_adapters(policy, "out/adapter")
        ```
    """
    directory = Path(path)
    rank, alpha = _read_settings(read_json(directory / _CONFIG))
    if not (directory / _WEIGHTS).is_file():
        raise FileNotFoundError(
            f"Adapters are stored in {_WEIGHTS}. {str(directory)!r} contains none: "
            "save them as safetensors."
        )
    stored = read_header(directory / _WEIGHTS)
    num_layers, matrices = policy.config.num_layers, policy.layers.projections
    expected, adapted = {}, []
    for field in PROJECTIONS:
        a, b = (_names(field, letter, num_layers) for letter in "AB")
        if not stored.keys().isdisjoint(a + b):
            adapted.append(field)
            inputs, outputs = matrix_shape(matrices[field])[-2:]
            expected |= dict.fromkeys(a, (rank, inputs))
            expected |= dict.fromkeys(b, (outputs, rank))
    check_tensors(stored, expected, _CONFIG)
    check_projections(adapted)

    def factor(field: str, letter: str) -> Array:
        return _stack([stored[name] for name in _names(field, letter, num_layers)])

    factors = {field: (factor(field, "A"), factor(field, "B")) for field in adapted}
    return attach(policy, factors, alpha)


def _names(field: str, letter: str, num_layers: int) -> list[str]:
    """The names of one factor of a projection's adapter, one for each layer."""
    return [
        f"base_model.model.{name.removesuffix('weight')}lora_{letter}.weight"
        for name in tensor_names(field, num_layers)
    ]


def _stack(tensors: list[StoredTensor]) -> Array:
    """The factors of all layers, from PEFT's `[out, in]`, in float32."""
    layers = [tensor.read().T.astype(np.float32) for tensor in tensors]
    for tensor, layer in zip(tensors, layers, strict=True):
        check_finite(tensor, layer)
    return jnp.asarray(np.stack(layers))


def _read_settings(values: Mapping[str, object]) -> tuple[int, float]:
    """Rank and alpha; refuses every other setting that changes the arithmetic."""
    if values.get("peft_type") != "LORA":
        _refuse("peft_type", values.get("peft_type"), "LORA")
    for key, value in values.items():
        allowed = _ONLY.get(key, _OFF)
        if key not in _IGNORED | _READ and value not in allowed:
            _refuse(key, value, allowed[0])
    rank, alpha = values.get("r"), values.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1:
        _refuse("r", rank, "a positive integer")
    if not isinstance(alpha, int | float) or alpha <= 0:
        _refuse("lora_alpha", alpha, "a positive number")
    # A rank-stabilized adapter divides alpha by the root of the rank.
    return rank, alpha * math.sqrt(rank) if values.get("use_rslora") else float(alpha)


def _refuse(key: str, value: object, implemented: object) -> NoReturn:
    raise ValueError(
        f"`{key}` = {value!r} in {_CONFIG} is not implemented; only {implemented!r} "
        "is. Merge the adapter into its model with PEFT (`merge_and_unload`), and load "
        "the result with `models.load`."
    )
