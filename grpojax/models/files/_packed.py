"""Tensors of gpt-oss: units of two matrices in turn, and numbers of 4 bits."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from ._safetensors import StoredTensor


_BLOCKS, _SCALES = "_blocks", "_scales"
_INPUTS = 32  # That share a scale, two in a byte.
_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_VALUES = np.concatenate([_VALUES, -_VALUES])
_BIAS = 127  # Of the exponents.


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlternateTensor(StoredTensor):
    """Every other column of a tensor.

    **Fields:**

    - `pair`: the tensor.
    - `first`: 0 or 1.
    """

    pair: StoredTensor
    first: int

    @staticmethod
    def of(pair: StoredTensor, first: int) -> "AlternateTensor":
        shape = (*pair.shape[:-1], pair.shape[-1] // 2)
        return AlternateTensor(
            pair.path, pair.name, pair.dtype, shape, pair=pair, first=first
        )

    def read(self, part: tuple[slice, ...] | None = None) -> np.ndarray:
        part = (slice(None),) * len(self.shape) if part is None else part
        start, stop, step = part[-1].indices(self.shape[-1])
        columns = slice(2 * start, 2 * stop)
        found = self.pair.read((*part[:-1], columns))
        return found[..., self.first :: 2][..., ::step]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mxfp4Tensor(StoredTensor):
    """The matrices of all experts in MXFP4, read as bfloat16.

        w[expert, input, output] = value of 4 bits · 2^(scale of 32 inputs - 127)

    Products of both are exact in bfloat16. Source: OCP Microscaling Formats 1.0, with
    values of E2M1.

    **Fields:**

    - `blocks`: `[expert output block 16]`, two values in a byte, the low bits first.
    - `scales`: `[expert output block]`, exponents.
    """

    blocks: StoredTensor
    scales: StoredTensor

    @staticmethod
    def of(name: str, blocks: StoredTensor, scales: StoredTensor) -> "Mxfp4Tensor":
        experts, outputs, count, _ = blocks.shape
        shape = experts, count * _INPUTS, outputs
        return Mxfp4Tensor(
            blocks.path, name, "BF16", shape, blocks=blocks, scales=scales
        )

    def read(self, part: tuple[slice, ...] | None = None) -> np.ndarray:
        experts, inputs, outputs = (slice(None),) * 3 if part is None else part
        packed = self.blocks.read((experts, outputs))
        exponent = self.scales.read((experts, outputs)).astype(np.int32) - _BIAS
        values = np.stack([_VALUES[packed & 15], _VALUES[packed >> 4]], axis=-1)
        values = values.reshape(*exponent.shape, _INPUTS)
        values = np.ldexp(values, exponent[..., None])
        values = values.reshape(*values.shape[:2], -1)[:, :, inputs]
        return np.swapaxes(values, 1, 2).astype(jnp.bfloat16)


def unpack_mxfp4(stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors with those of 4 bits in the place of their blocks and scales.

    **Raises:** `ValueError` for blocks without scales, or of another shape.
    """
    found = dict(stored)
    for name, blocks in stored.items():
        if not name.endswith(_BLOCKS):
            continue
        base = name.removesuffix(_BLOCKS)
        scales = stored.get(base + _SCALES)
        is_complete = len(blocks.shape) == 4 and blocks.shape[-1] == _INPUTS // 2
        if scales is None or not is_complete or scales.shape != blocks.shape[:-1]:
            raise ValueError(
                "A tensor of MXFP4 has bytes [expert output block 16] and a scale for "
                f"each block. Received {name} of shape {blocks.shape} with scales "
                f"{None if scales is None else scales.shape}: download the model again."
            )
        del found[name], found[base + _SCALES]
        found[base] = Mxfp4Tensor.of(base, blocks, scales)
    return found
