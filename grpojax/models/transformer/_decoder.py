"""A transformer laid out for decoding."""

import dataclasses
import functools as ft
import math

import equinox as eqx
import jax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from ... import sharding
from ...policy import AbstractPolicy, Past
from ...sharding import spmd
from ..attention import KVCache, quantize_cache, write_cache
from ..matrix import AbstractMatrix, as_matrix, to_bits
from ._architecture import Architecture
from ._forward import (
    Caches,
    forward,
    MAX_UNROLLED_LAYERS_ON_GPU,
)
from ._layers import unembed
from ._weights import Layers, logical_axes, PROJECTIONS


_MAX_UNROLLED_LAYERS = 8
"""Elsewhere than on a GPU, models of at most so many layers are unrolled.

An unrolled layer's weights, keys and values are arrays of their own, and are read in
place; a scan slices them out of a stack, at every token. But every unrolled layer is
compiled, so deeper models are scanned. Caches in fewer than 32 bits are scanned, too,
and matrices that a product expands: a CPU might convert all of them at once.
"""

_MAX_TILED_ROWS = {
    **dict.fromkeys(PROJECTIONS, 16),
    **dict.fromkeys(("gate", "up", "down"), 32),
    "head": 16,
}
"""How many rows a CPU may decode at a time for a matrix to be stored in tiles.

Tiles save a copy of the matrix for every token, and cost a copy of the rows for every
tile. Products in 16 bits do not copy the matrix in the first place.
"""


class Decoder(AbstractPolicy[Caches]):
    """A transformer laid out for many small steps.

    Its matrices are in the compute dtype, so that no step casts them, and its caches
    are in their stored form, which has no gradient (`KVCache`). Tokens attend to stored
    keys and values within their own chunk, too, so that any chunking gives the same.

    **Fields:**

    - `embedding`, `norm`, `head`: the weights outside of the layers; `head` is `None`
        where it is the embedding, transposed.
    - `stacks`: the layers, in stacks with a cache each.
    - `architecture`: the static settings.
    - `cache_dtype`: in which keys and values are stored.
    """

    embedding: Float[Array, "vocab hidden"]
    stacks: tuple[Layers, ...]
    norm: Float[Array, " hidden"]
    head: Float[Array, "hidden vocab"] | AbstractMatrix | None
    architecture: Architecture = eqx.field(static=True)
    cache_dtype: str = eqx.field(static=True)

    def __init__(
        self,
        embedding: Float[Array, "vocab hidden"],
        layers: Layers,
        norm: Float[Array, " hidden"],
        head: Float[Array, "hidden vocab"] | None,
        *,
        architecture: Architecture,
        cache_dtype: str,
    ):
        """**Arguments:** as the fields; `layers` is one stack of all layers."""
        self.embedding = embedding
        self.stacks = (layers,)
        self.norm = norm
        self.head = head
        self.architecture = architecture
        self.cache_dtype = cache_dtype

    @property
    def vocab_size(self) -> int:
        return self.architecture.config.vocab_size

    @property
    def reads_pages(self) -> bool:
        return True

    def extend(
        self,
        tokens: Int[Array, " chunk"],
        positions: Int[Array, " chunk"],
        *past: Past[Caches],
        visible: Bool[Array, "chunk chunk"] | None = None,
    ) -> tuple[Float[Array, "chunk hidden"], Caches]:
        stacks = self.stacks
        if spmd.platform() == "cpu" and len(stacks) == 1:
            # XLA would convert the entire stack to float32, and each slice back.
            stacks = to_bits(stacks, self.architecture.compute_dtype)
        hidden, own, _ = forward(
            self.architecture,
            self.embedding,
            stacks,
            self.norm,
            tokens,
            positions,
            past,
            visible,
            ft.partial(quantize_cache, dtype=self.cache_dtype),
            reads_blocks=spmd.platform() != "gpu",
        )
        return hidden, own

    def write(self, cache: Caches, chunk: Caches, column: Int[ArrayLike, ""]) -> Caches:
        return write_caches(cache, chunk, column)

    def logits(self, hidden: Float[Array, "*batch hidden"]) -> Float[Array, "*batch v"]:
        head = self.embedding.T if self.head is None else self.head
        return unembed(self.architecture, hidden, head)

    def for_decoding(self, rows: int | None = None) -> "Decoder":
        del rows
        return self

    def logical_axes(self) -> "Decoder":
        return logical_axes(self, self.architecture.config)


def write_caches(cache: PyTree, chunk: PyTree, column: Int[ArrayLike, ""]) -> PyTree:
    """Caches with a chunk's own written to `column` and those after it."""

    def write(old: PyTree, new: PyTree) -> PyTree:
        if isinstance(old, KVCache):
            return write_cache(old, new, column)
        return jax.lax.dynamic_update_slice_in_dim(old, new, column, axis=-1)

    return jax.tree.map(write, cache, chunk, is_leaf=lambda x: isinstance(x, KVCache))


def lay_out(decoder: Decoder, rows: int | None) -> Decoder:
    """A decoder as the mesh and the platform read its weights fastest.

    **Arguments:**

    - `decoder`: with one stack of layers, in the compute dtype.
    - `rows`: how many sequences are decoded at a time, if that is known.
    """
    decoder = sharding.constrain(decoder, sharding.DECODING)
    if spmd.platform() == "cpu" and not spmd.is_tensor_parallel():
        decoder = _tile(decoder, rows)
    return _unstack(decoder) if _is_unrolled(decoder) else decoder


def _tile(decoder: Decoder, rows: int | None) -> Decoder:
    """Matrices in tiles where a CPU multiplies so few rows faster with them."""
    wide = decoder.architecture.compute_dtype == "float32"
    count = rows if rows is not None and wide else math.inf
    is_tiled = lambda name: count <= _MAX_TILED_ROWS.get(name, 0)
    head = decoder.embedding.T if decoder.head is None else decoder.head
    (layers,) = decoder.stacks
    tile = lambda name, x: as_matrix(x).tiled() if is_tiled(name) else x
    layers, head = layers.map_projections(tile), tile("head", head)
    return eqx.tree_at(
        lambda x: (x.head, x.stacks),
        decoder,
        (head, (layers,)),
        is_leaf=lambda x: x is None,
    )


def _is_unrolled(decoder: Decoder) -> bool:
    on_gpu = spmd.platform() == "gpu"
    most = MAX_UNROLLED_LAYERS_ON_GPU if on_gpu else _MAX_UNROLLED_LAYERS
    few = decoder.architecture.config.num_layers <= most
    (layers,) = decoder.stacks
    expands = any(as_matrix(x).expands for x in layers.projections.values())
    return few and (on_gpu or (decoder.cache_dtype == "float32" and not expands))


def _unstack(decoder: Decoder) -> Decoder:
    """A stack of one for every layer."""
    (layers,) = decoder.stacks
    layers, mlps = layers.split_mlps()
    at = lambda tree, number: jax.tree.map(lambda x: x[number, None], tree)
    has_experts = decoder.architecture.config.has_experts
    stacks = []
    for number, sparse in enumerate(has_experts):
        stack = at(layers, number)
        if mlps:
            own = at(mlps[sparse], has_experts[:number].count(sparse))
            stack = dataclasses.replace(stack, **own)
        stacks.append(stack)
    return eqx.tree_at(lambda x: x.stacks, decoder, tuple(stacks))
