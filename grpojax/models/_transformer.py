"""One decoder transformer, scanned over its layers."""

import dataclasses
import functools as ft
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, ArrayLike, Bool, DTypeLike, Float, Int, Key

from .. import sharding
from ..policy import AbstractPolicy, Past
from ..sharding import spmd
from ..types import Axes
from ._attention import attend
from ._bits import from_bits, to_bits
from ._cache import check_cache_dtype, keep, write
from ._config import TransformerConfig
from ._layers import rms_norm, rotate, Turns, turns
from ._matrix import (
    axes_of,
    cast,
    in_tiles,
    Int8Matrix,
    LowRankMatrix,
    multiply,
    TiledMatrix,
)
from ._remat import ATTENTION, check_remat, recompute
from ._weights import KVCache, Layers, LOGICAL_AXES, PROJECTIONS


Caches = tuple[KVCache, ...]
"""One for each stack of layers."""

_WRITTEN_OUT, _WRITTEN_OUT_ON_GPU = 8, 64
"""Up to so many layers are written out one by one for decoding.

A layer's weights, keys and values then lie in arrays of their own, and are read where
they lie; a scan cuts them out of a stack, at every token. Each layer is compiled, so
deeper models are scanned. So are narrow caches elsewhere than on a GPU: a CPU might
widen all of them at once.

A GPU trains with as many written out, where the compiler cuts nothing: a scan copies
what each layer keeps for the backward pass into stacks, and out of them again.
"""

_FEW_ROWS = 16
_TILED_UP_TO = dict.fromkeys(PROJECTIONS, _FEW_ROWS) | dict.fromkeys(
    ("gate", "up", "down"), 2 * _FEW_ROWS
)
"""How many rows a CPU decodes at a time, at most, for a matrix to be put in tiles.

Tiles spare it a copy of every matrix for every token, and take a copy of the rows for
each tile. Of 16 bits no matrix is copied in the first place.
"""


class Transformer(AbstractPolicy[KVCache]):
    """A decoder-only transformer policy: Llama, Qwen2 and Qwen3 by configuration.

    **Fields:**

    - `embedding`, `layers`, `norm`, `head`: the weights; `head` is `None` when tied.
    - `config`: the shape.
    - `compute_dtype`: of the operands of every matrix product; accumulation, norms and
        softmax are float32.
    - `cache_dtype`: that keys and values are kept in while decoding.
    - `remat`: what the backward pass computes again; see `__init__`.
    """

    embedding: Float[Array, "vocab hidden"]
    layers: Layers
    norm: Float[Array, " hidden"]
    head: Float[Array, "hidden vocab"] | TiledMatrix | None
    config: TransformerConfig = eqx.field(static=True)
    compute_dtype: str = eqx.field(static=True)
    cache_dtype: str = eqx.field(static=True)
    remat: str = eqx.field(static=True)

    def __init__(
        self,
        config: TransformerConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        compute_dtype: DTypeLike | None = None,
        cache_dtype: DTypeLike | None = None,
        remat: str = "elementwise",
        key: Key[Array, ""],
    ):
        """**Arguments:**

        - `config`: the shape.
        - `dtype`: of the weights.
        - `compute_dtype`: of the matrix products; the weights' own by default.
        - `cache_dtype`: that keys and values are kept in while decoding: that of the
            matrix products by default, or bfloat16, or int8 with a scale for each token
            and head. The training side computes with exact ones. With products in 16
            bits, float32 keeps the same numbers, which a CPU need not widen.
        - `remat`: what of a layer the backward pass computes again instead of keeping
            it: `"nothing"`; `"elementwise"`, what lies between matrix products;
            `"mlp"`, that and the products of the MLP; or `"layers"`, everything.
        - `key`: draws the weights, normal with variance 1 / inputs.

        **Raises:** `ValueError` for a `remat` or a `cache_dtype` that there is not.
        """
        layers, hidden = config.num_layers, config.hidden_size
        query = config.num_heads * config.head_dim
        kv = config.num_kv_heads * config.head_dim
        mlp = config.intermediate_size
        keys = iter(jr.split(key, 9))

        def matrix(*shape: int) -> Array:
            return (jr.normal(next(keys), shape) * shape[-2] ** -0.5).astype(dtype)

        def maybe(present: bool, make, *shape: int) -> Array | None:
            return make(shape, dtype) if present else None

        # Embeddings are read, not multiplied: 0.02 as every model of the family.
        embedding = jr.normal(next(keys), (config.vocab_size, hidden)) * 0.02
        self.embedding = embedding.astype(dtype)
        self.layers = Layers(
            attention_norm=jnp.ones((layers, hidden), dtype),
            query=matrix(layers, hidden, query),
            key=matrix(layers, hidden, kv),
            value=matrix(layers, hidden, kv),
            output=matrix(layers, query, hidden),
            query_bias=maybe(config.qkv_bias, jnp.zeros, layers, query),
            key_bias=maybe(config.qkv_bias, jnp.zeros, layers, kv),
            value_bias=maybe(config.qkv_bias, jnp.zeros, layers, kv),
            query_norm=maybe(config.qk_norm, jnp.ones, layers, config.head_dim),
            key_norm=maybe(config.qk_norm, jnp.ones, layers, config.head_dim),
            mlp_norm=jnp.ones((layers, hidden), dtype),
            gate=matrix(layers, hidden, mlp),
            up=matrix(layers, hidden, mlp),
            down=matrix(layers, mlp, hidden),
        )
        self.norm = jnp.ones((hidden,), dtype)
        self.head = None if config.tied else matrix(hidden, config.vocab_size)
        self.config = config
        self.compute_dtype = jnp.dtype(compute_dtype or dtype).name
        self.cache_dtype = jnp.dtype(cache_dtype or self.compute_dtype).name
        self.remat = remat
        check_cache_dtype(self.cache_dtype, self.compute_dtype)
        check_remat(remat)

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    def extend(
        self,
        tokens: Int[Array, " chunk"],
        positions: Int[Array, " chunk"],
        *past: Past[KVCache],
        visible: Bool[Array, "chunk chunk"] | None = None,
    ) -> tuple[Float[Array, "chunk hidden"], KVCache]:
        stacks = tuple(Past((one.cache,), one.visible) for one in past)
        hidden, (own,) = self._extend(
            (self.layers,), tokens, positions, stacks, visible, lambda own: own
        )
        return hidden, own

    def _extend(
        self,
        stacks: tuple[Layers, ...],
        tokens: Int[Array, " chunk"],
        positions: Int[Array, " chunk"],
        past: tuple[Past[Caches], ...],
        visible: Bool[Array, "chunk chunk"] | None,
        kept: Callable[[KVCache], KVCache],
    ) -> tuple[Float[Array, "chunk hidden"], Caches]:
        """`extend`, through stacks of layers with a cache for each.

        Every token sees keys and values as they are kept. A stack may have bits in the
        place of 16-bit floats.
        """
        chunk = tokens.shape[0]
        turned = turns(positions, self.config.inverse_frequency)
        if visible is None:
            visible = jnp.tril(jnp.ones((chunk, chunk), bool))

        def block(x, scanned):
            layer, caches = scanned
            layer = from_bits(layer, self.compute_dtype)
            query, own = self._project(layer, x, turned)
            own = kept(own)
            sources = [
                (cache, seen.visible) for cache, seen in zip(caches, past, strict=True)
            ]
            mixed = attend(query, [*sources, (own, visible)], self.compute_dtype)
            x = x + checkpoint_name(self._product(mixed, layer, "output"), ATTENTION)
            x = spmd.replicate(x + self._mlp(layer, x))
            return x, own

        written_out = self._trains_written_out()
        block = recompute(block, self.remat, scanned=not written_out)
        # Read in the compute dtype here and in `for_decoding` alike.
        embedding = spmd.all_gather_weight(self.embedding, self._axes("embedding"))
        x = embedding[tokens].astype(self.compute_dtype).astype(jnp.float32)
        x = spmd.replicate(x)
        # Caches are only read in here. Carried and written by the scan, one would be
        # copied for every layer of every token.
        written = []
        for number, layers in enumerate(stacks):
            caches = [one.cache[number] for one in past]
            x, own = jax.lax.scan(block, x, (layers, caches), unroll=written_out)
            written.append(own)
        return rms_norm(x, self.norm, self.config.norm_eps), tuple(written)

    def write(
        self, cache: KVCache, chunk: KVCache, column: Int[ArrayLike, ""]
    ) -> KVCache:
        return write(cache, chunk, column)

    def logits(self, hidden: Float[Array, "*batch hidden"]) -> Float[Array, "*batch v"]:
        head = self.embedding.T if self.head is None else self.head
        return multiply(hidden, head, self.compute_dtype, self._axes("head"))

    def for_decoding(self, rows: int | None = None) -> "Decoder":
        narrow = lambda x: None if x is None else cast(x, self.compute_dtype)
        matrices = {name: narrow(vars(self.layers)[name]) for name in PROJECTIONS}
        where = lambda p: (p.embedding, p.head, p.layers)
        layers = dataclasses.replace(self.layers, **matrices)
        transformer = eqx.tree_at(
            where,
            self,
            (narrow(self.embedding), narrow(self.head), layers),
            is_leaf=lambda x: x is None,
        )
        transformer = sharding.constrain(transformer, sharding.DECODING)
        if spmd.platform() == "cpu" and not spmd.is_tensor_parallel():
            transformer = transformer._on_cpu(rows)
        layers, count = transformer.layers, self.config.num_layers
        on_gpu = spmd.platform() == "gpu"
        most = _WRITTEN_OUT_ON_GPU if on_gpu else _WRITTEN_OUT
        if count > most or (self.cache_dtype != "float32" and not on_gpu):
            return Decoder(transformer, (layers,))
        at = lambda number: jax.tree.map(lambda x: x[number, None], layers)
        return Decoder(transformer, tuple(map(at, range(count))))

    def _trains_written_out(self) -> bool:
        on_gpu = spmd.platform() == "gpu" and not spmd.is_auto_sharded()
        return on_gpu and self.config.num_layers <= _WRITTEN_OUT_ON_GPU

    def _on_cpu(self, rows: int | None) -> "Transformer":
        """Matrices as a CPU reads them quickest, for so many rows at a time."""
        head = self.embedding.T if self.head is None else self.head
        wide = self.compute_dtype == "float32"
        count = rows if rows is not None and wide else math.inf
        if count <= _FEW_ROWS:
            head = in_tiles(head)
        tiled = [x for x, most in _TILED_UP_TO.items() if count <= most]
        matrices = {name: in_tiles(vars(self.layers)[name]) for name in tiled}
        layers = dataclasses.replace(self.layers, **matrices)
        where = lambda p: (p.head, p.layers)
        return eqx.tree_at(where, self, (head, layers), is_leaf=lambda x: x is None)

    def trainable(self) -> "Transformer":
        """Its adapters, if it has any. With a matrix in 8 bits, nothing else is."""
        is_matrix = lambda x: isinstance(x, Int8Matrix | LowRankMatrix)

        def learned(x):
            none = jax.tree.map(lambda _: False, x)
            if isinstance(x, LowRankMatrix):
                return eqx.tree_at(lambda x: (x.a, x.b), none, (True, True))
            return none

        if any(map(is_matrix, jax.tree.leaves(self, is_leaf=is_matrix))):
            return jax.tree.map(learned, self, is_leaf=is_matrix)
        return super().trainable()

    def logical_axes(self) -> "Transformer":
        return jax.tree_util.tree_map_with_path(self.axes_at, self)

    def axes_at(self, path: tuple, _: object) -> Axes:
        """The axes of the array at a path of fields, of which one names a weight."""
        fields = [key.name for key in path if hasattr(key, "name")]
        (weight,) = (field for field in fields if field in LOGICAL_AXES)
        return axes_of(fields[-1], self._axes(weight))

    def _axes(self, field: str) -> Axes:
        """The axes of one weight; an axis of heads is cut between them."""
        config, names = self.config, LOGICAL_AXES[field]
        pieces = {
            "layer": config.num_layers,
            "vocab": config.vocab_size,
            "hidden": config.hidden_size,
            "heads": config.num_heads,
            "kv_heads": config.num_kv_heads,
            "mlp": config.intermediate_size,
            "norm": 1,
        }
        return Axes(names, tuple(pieces[name] for name in names))

    def _product(
        self,
        x: Float[Array, "chunk inputs"],
        layer: Layers,
        field: str,
        result: str | None = None,
    ) -> Float[Array, "chunk outputs"]:
        """With one layer's matrix."""
        names, pieces = self._axes(field)
        axes = Axes(names[1:], pieces[1:])
        return multiply(x, vars(layer)[field], self.compute_dtype, axes, result)

    def _project(
        self, layer: Layers, x: Float[Array, "chunk hidden"], turned: Turns
    ) -> tuple[Float[Array, "chunk head head_dim"], KVCache]:
        """Rotated queries, and one layer's keys and values."""
        config, dtype = self.config, self.compute_dtype
        normed = rms_norm(x, layer.attention_norm, config.norm_eps)

        def heads(field, bias, norm, count):
            y = checkpoint_name(self._product(normed, layer, field), ATTENTION)
            if bias is not None:
                y = y + bias.astype(jnp.float32)[None]
            y = y.reshape(-1, count, config.head_dim)
            return y if norm is None else rms_norm(y, norm, config.norm_eps)

        query = heads("query", layer.query_bias, layer.query_norm, config.num_heads)
        key = heads("key", layer.key_bias, layer.key_norm, config.num_kv_heads)
        value = heads("value", layer.value_bias, None, config.num_kv_heads)
        query, key = rotate(query, turned), rotate(key, turned)
        key = jnp.transpose(key.astype(dtype), (1, 2, 0))
        value = jnp.transpose(value.astype(dtype), (1, 0, 2))
        return query, KVCache(key, value)

    def _mlp(
        self, layer: Layers, x: Float[Array, "chunk hidden"]
    ) -> Float[Array, "chunk hidden"]:
        normed = rms_norm(x, layer.mlp_norm, self.config.norm_eps)
        # The widest arrays there are, and the next product rounds them in any case.
        gate, up = (
            self._product(normed, layer, name, self.compute_dtype).astype(jnp.float32)
            for name in ("gate", "up")
        )
        hidden = (jax.nn.silu(gate) * up).astype(self.compute_dtype)
        return self._product(hidden, layer, "down")


class Decoder(AbstractPolicy[Caches]):
    """A transformer laid out for many small steps.

    Its matrices are in the compute dtype, so that no token pays for a cast, and its
    caches hold what has no gradient (see `KVCache`). A token sees itself and its own
    chunk, too, as they are kept: any chunking gives the same.

    **Fields:**

    - `transformer`: all else; it has no layers.
    - `stacks`: its layers, in stacks that each have a cache.
    """

    transformer: Transformer
    stacks: tuple[Layers, ...]

    def __init__(self, transformer: Transformer, stacks: tuple[Layers, ...]):
        # Held once: the stacks are made of them.
        self.transformer = eqx.tree_at(lambda x: x.layers, transformer, None)
        self.stacks = stacks

    @property
    def vocab_size(self) -> int:
        return self.transformer.vocab_size

    def extend(
        self,
        tokens: Int[Array, " chunk"],
        positions: Int[Array, " chunk"],
        *past: Past[Caches],
        visible: Bool[Array, "chunk chunk"] | None = None,
    ) -> tuple[Float[Array, "chunk hidden"], Caches]:
        transformer = self.transformer
        kept = ft.partial(keep, dtype=transformer.cache_dtype)
        stacks = self.stacks
        if spmd.platform() == "cpu" and len(stacks) == 1:
            # The stack would be widened as a whole, and each slice made narrow again.
            stacks = to_bits(stacks, transformer.compute_dtype)
        return transformer._extend(stacks, tokens, positions, past, visible, kept)

    def write(self, cache: Caches, chunk: Caches, column: Int[ArrayLike, ""]) -> Caches:
        pairs = zip(cache, chunk, strict=True)
        return tuple(write(stack, new, column) for stack, new in pairs)

    def logits(self, hidden: Float[Array, "*batch hidden"]) -> Float[Array, "*batch v"]:
        return self.transformer.logits(hidden)

    def for_decoding(self, rows: int | None = None) -> "Decoder":
        del rows
        return self

    def logical_axes(self) -> "Decoder":
        return jax.tree_util.tree_map_with_path(self.transformer.axes_at, self)
