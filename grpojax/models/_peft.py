"""Adapters in PEFT's format: adapter_config.json and adapter_model.safetensors."""

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

from ._huggingface import tensor_names
from ._huggingface_files import check_tensors, read_json, replacing, write_json
from ._lora import adapters, attach, check_projections
from ._matrix import shape_of
from ._safetensors import follow, read_header, StoredTensor, write_file
from ._transformer import Transformer
from ._weights import PROJECTIONS


_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"

# What says where an adapter comes from, or matters to PEFT's own training alone.
_HARMLESS = {
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
    "target_modules",  # The tensors say it, too, and name no patterns.
    "task_type",
}
_READ = {"peft_type", "r", "lora_alpha", "use_rslora"}
# Of everything else, the values under which it changes nothing.
_ONLY = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian")}
_OFF = (None, False, {}, [])


def save_adapters(
    policy: Transformer, path: str | os.PathLike[str], *, base: str | None = None
) -> None:
    """Writes a policy's adapters as PEFT does: it loads them, and so do we.

    **Arguments:**

    - `policy`: with adapters of one rank and one alpha.
    - `path`: the directory; made if there is none, files in it replaced if there is.
    - `base`: the name or the path of the model that they adapt, to be written down.

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
    turned = lambda factor, layer: factor[layer].T
    tensors = {
        name: ft.partial(turned, factor, layer)
        for field, adapter in found.items()
        for letter, factor in (("A", adapter.a), ("B", adapter.b))
        for layer, name in enumerate(_names(field, letter, len(factor)))
    }
    if jax.process_index() > 0:
        return follow(tensors)
    with replacing(path) as unfinished:
        write_file(unfinished / _WEIGHTS, tensors)
        write_json(unfinished / _CONFIG, config)


def load_adapters(policy: Transformer, path: str | os.PathLike[str]) -> Transformer:
    """The policy with the adapters that PEFT, or `save_adapters`, left in a directory.

    Everything is checked before any array is made.

    **Arguments:**

    - `policy`: what they were trained on; its weights may be 8 bits.
    - `path`: the directory.

    **Raises:** `FileNotFoundError` when files are missing; `ValueError` for settings
    that change the arithmetic in a way that is not implemented (DoRA, ranks by a
    pattern, trained biases ...), and for tensors that are missing, unexpected or of
    another shape than the policy's.
    """
    directory = Path(path)
    rank, alpha = _read_settings(read_json(directory / _CONFIG))
    if not (directory / _WEIGHTS).is_file():
        raise FileNotFoundError(
            f"Adapters lie in {_WEIGHTS}. {str(directory)!r} holds none: save them as "
            "safetensors."
        )
    stored = read_header(directory / _WEIGHTS)
    num_layers, weights = policy.config.num_layers, vars(policy.layers)
    expected, adapted = {}, []
    for field in PROJECTIONS:
        a, b = (_names(field, letter, num_layers) for letter in "AB")
        if not stored.keys().isdisjoint(a + b):
            adapted.append(field)
            inputs, outputs = shape_of(weights[field])[-2:]
            expected |= dict.fromkeys(a, (rank, inputs))
            expected |= dict.fromkeys(b, (outputs, rank))
    check_tensors(stored, expected, _CONFIG)
    check_projections(adapted)

    def factor(field: str, letter: str) -> Array:
        return _stacked([stored[name] for name in _names(field, letter, num_layers)])

    factors = {field: (factor(field, "A"), factor(field, "B")) for field in adapted}
    return attach(policy, factors, alpha)


def _names(field: str, letter: str, num_layers: int) -> list[str]:
    """The tensors of one factor of a projection's adapter, one of each layer."""
    return [
        f"base_model.model.{name.removesuffix('weight')}lora_{letter}.weight"
        for name in tensor_names(field, num_layers)
    ]


def _stacked(tensors: list[StoredTensor]) -> Array:
    read = [tensor.read().T.astype(np.float32) for tensor in tensors]
    return jnp.asarray(np.stack(read))


def _read_settings(values: Mapping[str, object]) -> tuple[int, float]:
    """Rank and alpha, if nothing else of what is set changes the arithmetic."""
    if values.get("peft_type") != "LORA":
        _refuse("peft_type", values.get("peft_type"), "LORA")
    for key, value in values.items():
        allowed = _ONLY.get(key, _OFF)
        if key not in _HARMLESS | _READ and value not in allowed:
            _refuse(key, value, allowed[0])
    rank, alpha = values.get("r"), values.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1:
        _refuse("r", rank, "a positive integer")
    if not isinstance(alpha, int | float) or alpha <= 0:
        _refuse("lora_alpha", alpha, "a positive number")
    # A rank-stabilized adapter divides by the root of the rank instead.
    return rank, alpha * math.sqrt(rank) if values.get("use_rslora") else float(alpha)


def _refuse(key: str, value: object, implemented: object) -> NoReturn:
    raise ValueError(
        f"`{key}` = {value!r} in {_CONFIG} is not implemented; only {implemented!r} "
        "is. Merge the adapter into its model with PEFT (`merge_and_unload`), and load "
        "the result with `models.load`."
    )
