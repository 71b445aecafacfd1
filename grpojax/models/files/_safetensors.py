"""Safetensors files, read lazily and written one tensor at a time."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Float
from safetensors import safe_open, SafetensorError


DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}
_LONGEST_HEADER = 100_000_000  # The format's own limit.


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file.

    **Fields:**

    - `path`: the file.
    - `name`: the tensor's name in the file.
    - `dtype`: the format's name of the dtype, such as `"BF16"`.
    - `shape`: as stored.
    - `start`: the first row, where a tensor is a part of another one's rows.
    """

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int | None = None

    def read(self, part: tuple[slice, ...] | None = None) -> np.ndarray:
        """A slice of the tensor, and nothing else, from the file; by default all."""
        with safe_open(self.path, framework="numpy") as file:
            if self.start is not None:
                asked = (slice(None),) if part is None else part
                first, stop, step = asked[0].indices(self.shape[0])
                rows = slice(self.start + first, self.start + stop, step)
                part = (rows, *asked[1:])
            if part is None:
                return file.get_tensor(self.name)
            return file.get_slice(self.name)[part]


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by name, from its header.

    **Raises:** `ValueError` when the file is incomplete, corrupt or of another format.
    """
    _check_size(path)
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            return {
                name: StoredTensor(path, name, x.get_dtype(), tuple(x.get_shape()))
                for name, x in slices.items()
            }
    except SafetensorError as error:
        raise ValueError(
            f"{path} is corrupt or no safetensors file ({error}). Copy or download it "
            "again; if it is a Git LFS pointer, fetch the file that it points to."
        ) from error


def write_file(
    path: Path, tensors: Mapping[str, Callable[[], Float[Array, "..."]]]
) -> None:
    """Writes a safetensors file, one tensor at a time.

    The format is the header's length, a JSON header and the tensors' bytes. The
    `safetensors` package takes all tensors at once: a second copy of the model.

    **Arguments:**

    - `path`: the file.
    - `tensors`: functions that compute each tensor, by name.
    """
    codes = {dtype: code for code, dtype in DTYPES.items()}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, make in tensors.items():
        form = jax.eval_shape(make)
        begin, end = end, end + form.size * form.dtype.itemsize
        header[name] = dict(
            dtype=codes[form.dtype], shape=form.shape, data_offsets=[begin, end]
        )
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for make in tensors.values():
            file.write(to_host(make()).tobytes())


def contribute(tensors: Mapping[str, Callable[[], Float[Array, "..."]]]) -> None:
    """The counterpart of `write_file` on other processes: all-gathers each tensor."""
    for make in tensors.values():
        to_host(make())


def to_host(x: Array) -> np.ndarray:
    """An array on the host; every process with a shard of it must call this."""
    if x.is_fully_addressable:
        return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)


def _check_size(path: Path) -> None:
    """Checks for a truncated file, for which the package reports no sizes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _LONGEST_HEADER:
            return  # Another format.
        expected = 8 + length
        if size >= expected:
            try:
                header = json.loads(file.read(length))
                header.pop("__metadata__", None)
                ends = [entry["data_offsets"][1] for entry in header.values()]
            except (ValueError, AttributeError, KeyError, TypeError):
                return  # Corrupt.
            expected += max(ends, default=0)
    if size < expected:
        raise ValueError(
            f"{path} is incomplete: it should have {expected} bytes and has {size}. "
            "Copy or download it again."
        )
