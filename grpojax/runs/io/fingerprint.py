"""Fingerprints of models, data sets and settings."""

import dataclasses
import hashlib
import json
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PyTree, UInt32

from ..distributed.mesh import replicate


def fingerprint(tree: PyTree) -> str:
    """A 64-bit hash of a tree's arrays and plain settings, as 16 hexadecimal digits.

    It depends on the bits of the arrays, not on devices or shardings, and on what
    `settings` returns. Each array is hashed on its devices, and two words of it are
    transferred to the host. The hash is not cryptographic.
    """
    arrays = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array))
    words = jax.device_get(_words([leaf for _, leaf in arrays]))
    parts = [
        (jax.tree_util.keystr(path), str(leaf.dtype), leaf.shape, word.tolist())
        for (path, leaf), word in zip(arrays, words, strict=True)
    ]
    message = json.dumps([settings(tree), parts]).encode()
    return hashlib.blake2b(message, digest_size=8).hexdigest()


def settings(value: object) -> object:
    """The class names and plain values in a module, such as a sampler.

        settings(Categorical(0.7))  # {"name": "Categorical", "temperature": 0.7}

    Functions, arrays that are not scalars, and other objects are skipped.
    """
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, jax.Array) and value.ndim == 0:
        kinds = (jnp.floating, jnp.integer, jnp.bool_)
        real = any(jnp.issubdtype(value.dtype, kind) for kind in kinds)
        return value.item() if real else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = {name: settings(field) for name, field in vars(value).items()}
        known = {name: field for name, field in inner.items() if field is not None}
        return {"name": type(value).__name__, **known}
    return None


@eqx.filter_jit
def _words(leaves: list[Array]) -> list[UInt32[Array, "2"]]:
    return replicate([_digest(leaf) for leaf in leaves])


def _digest(x: Array) -> UInt32[Array, "2"]:
    """Two sums of mixed bits and positions: integers, so that order does not matter."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jr.key_data(x)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    word = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    bits = jax.lax.bitcast_convert_type(x, word).astype(jnp.uint32)
    # Not flattened, which would all-gather a sharded array.
    position = jnp.zeros(bits.shape, jnp.uint32)
    for axis in range(bits.ndim):
        stride = np.uint32(math.prod(bits.shape[axis + 1 :]) % 2**32)
        iota = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        position = position + iota * stride
    sums = [
        jnp.sum(_murmur(bits ^ _murmur(position + np.uint32(seed))), dtype=jnp.uint32)
        for seed in (0x9E3779B9, 0x7F4A7C15)
    ]
    return jnp.stack(sums)


def _murmur(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """The finalizer of MurmurHash3: each input bit affects each output bit."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
