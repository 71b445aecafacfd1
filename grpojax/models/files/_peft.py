"""LoRA adapters in PEFT's format: adapter_config.json and safetensors."""

import functools as ft
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..matrix import as_matrix
from ..transformer import (
    adaptable,
    adapters,
    attach,
    check_projections,
    Transformer,
    TransformerConfig,
)
from ._directory import check_tensors, read_json, staged, write_json
from ._peft_settings import CONFIG, MERGE, read_settings, Settings
from ._safetensors import contribute, read_header, StoredTensor, write_file
from ._tensors import check_finite, is_fused, tensor_names


_WEIGHTS = "adapter_model.safetensors"


def save_adapters(
    policy: Transformer, path: str | os.PathLike[str], *, base: str | None = None
) -> None:
    """Writes a policy's adapters in PEFT's format.

    **Arguments:**

    - `policy`: with adapters. Several ranks or alphas are written as patterns.
    - `path`: the directory; created if it does not exist. Files of the same name are
        replaced.
    - `base`: the name or the path of the base model, for adapter_config.json.

    **Raises:** `ValueError` if there are no adapters; `NotADirectoryError` if `path` is
    a file. Nothing is written then.

    !!! example

        ```python
        models.save_adapters(state.policy, "out/adapter", base="Qwen/Qwen3-0.6B")
        ```
    """
    found = adapters(policy)
    _check_format(policy, "Write `models.merge(policy)` with `models.save`.")
    if not found:
        raise ValueError(
            "save_adapters(policy, path) writes adapters. Received a policy that has "
            "none: write it with `models.save`."
        )
    names = {name: tensor_names(name, policy.config) for name in found}
    modules = {name: str(x[0]).split(".")[-2] for name, x in names.items()}
    ranks = {modules[name]: adapter.rank for name, adapter in found.items()}
    alphas = {
        modules[name]: int(x.alpha) if x.alpha.is_integer() else x.alpha
        for name, x in found.items()
    }
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: x for name, x in ranks.items() if x != rank},
        "alpha_pattern": {name: x for name, x in alphas.items() if x != alpha},
        "target_modules": list(ranks),
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
        for layer, name in enumerate(_names(field, letter, policy.config))
    }
    if jax.process_index() > 0:
        return contribute(tensors)
    with staged(path) as staging:
        write_file(staging / _WEIGHTS, tensors)
        write_json(staging / CONFIG, config)


def load_adapters(policy: Transformer, path: str | os.PathLike[str]) -> Transformer:
    """The policy with adapters that PEFT or `save_adapters` wrote to a directory.

    Files are checked before any array is allocated.

    **Arguments:**

    - `policy`: the base model; its weights may be quantized.
    - `path`: the directory.

    **Returns:** the adapted policy; it shares the weights of `policy`.

    **Raises:** `FileNotFoundError` for missing files; `ValueError` for settings that
    change the arithmetic in a way that is not implemented (DoRA, trained biases ...),
    for adapters of other matrices than a layer's projections (`lm_head`,
    `embed_tokens`), and for tensors that are missing or of another shape than the
    policy's.

    !!! example

        ```python
        adapted = models.load_adapters(policy, "out/adapter")
        ```
    """
    directory = Path(path)
    _check_format(policy, MERGE)
    settings = read_settings(read_json(directory / CONFIG))
    if not (directory / _WEIGHTS).is_file():
        raise FileNotFoundError(
            f"Adapters are stored in {_WEIGHTS}. {str(directory)!r} contains none: "
            "save them as safetensors."
        )
    stored = read_header(directory / _WEIGHTS)
    config, matrices = policy.config, policy.layers.projections
    names = {
        field: list(zip(*(_names(field, x, config) for x in "AB"), strict=True))
        for field in adaptable(config)
    }
    known = {name for x in names.values() for y in x for name in y}
    _check_modules(stored, known, adaptable(config))
    expected, adapted = {}, {}
    for field, pairs in names.items():
        inputs, outputs = as_matrix(matrices[field]).shape[-2:]
        there = [not stored.keys().isdisjoint(pair) for pair in pairs]
        if not any(there):
            continue
        adapted[field] = [x or not settings.partial for x in there]
        for (a, b), is_adapted in zip(pairs, adapted[field], strict=True):
            if is_adapted:
                rank = settings.rank(a)
                expected |= {a: (rank, inputs), b: (outputs, rank)}
    check_tensors(stored, expected, CONFIG)
    check_projections(list(adapted))
    factors = {
        field: _factors(stored, names[field], is_adapted, settings)
        for field, is_adapted in adapted.items()
    }
    return attach(policy, factors)


def _check_modules(
    stored: Iterable[str], known: set[str], projections: Sequence[str]
) -> None:
    """Checks that adapters are those of projections that may have one.

    **Raises:** `ValueError` with the name of a tensor that is not.
    """
    others = sorted(set(stored) - known)
    if others:
        name = others[0].removeprefix("base_model.model.")
        module = re.split(r"\.(?:lora_|base_layer\.)", name)[0]
        raise ValueError(
            "Adapters are implemented for the projections of layers, "
            f"{', '.join(projections)}. Received {len(others)} tensors of others, such "
            f"as of {module!r}. {MERGE}"
        )


def _factors(
    stored: Mapping[str, StoredTensor],
    names: Sequence[tuple[str, str]],
    is_adapted: Sequence[bool],
    settings: Settings,
) -> tuple[Array, Array, float]:
    """`A`, `B` and alpha of a projection, from those of its layers.

    Layers without an adapter, and the columns of smaller ranks, are zeros in both
    factors, so that they have no gradient either.
    """
    pairs = [pair if x else None for pair, x in zip(names, is_adapted, strict=True)]
    kinds = {
        (settings.rank(pair[0]), settings.alpha(pair[0])) for pair in pairs if pair
    }
    rank, alpha = max(kinds)
    a_shape, b_shape = next(
        (stored[pair[0]].shape, stored[pair[1]].shape) for pair in pairs if pair
    )
    a = np.zeros((len(pairs), a_shape[1], rank), np.float32)
    b = np.zeros((len(pairs), rank, b_shape[0]), np.float32)
    for layer, pair in enumerate(pairs):
        if pair is None:
            continue
        own = settings.rank(pair[0])
        for tensor, factor in zip(
            pair, (a[layer, :, :own], b[layer, :own]), strict=True
        ):
            factor[...] = stored[tensor].read().T
            check_finite(stored[tensor], factor)
        if len(kinds) > 1:  # One scale for all layers: the rest of it goes into `B`.
            b[layer] *= (settings.alpha(pair[0]) / own) / (alpha / rank)
    return jnp.asarray(a), jnp.asarray(b), alpha


def has_peft_format(policy: Transformer) -> bool:
    """Whether a policy's adapters are files of PEFT's.

    They name the matrices of `transformers`, and Phi-3 has several in one.

    **Arguments:**

    - `policy`: with or without adapters.
    """
    return not is_fused(policy.config)


def _check_format(policy: Transformer, advice: str) -> None:
    if not has_peft_format(policy):
        raise ValueError(
            "PEFT adapts the matrices of a model's files, and this family has several "
            f"in one. Received a policy of the family {policy.config.family!r}. "
            f"{advice}"
        )


def _names(field: str, letter: str, config: TransformerConfig) -> list[str]:
    """The names of one factor of a projection's adapter, one for each layer."""
    return [
        f"base_model.model.{name.removesuffix('weight')}lora_{letter}.weight"
        for name in tensor_names(field, config).tolist()
    ]
