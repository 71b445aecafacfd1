"""One decoder transformer, scanned over its layers."""

import dataclasses
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Bool, DTypeLike, Float, Int, Key

from ..policy import AbstractPolicy
from ._config import TransformerConfig
from ._layers import attend, product, rms_norm, rotate
from ._weights import KVCache, Layers, LOGICAL_AXES


_MATRICES = ("query", "key", "value", "output", "gate", "up", "down")


class Transformer(AbstractPolicy[KVCache]):
    """A decoder-only transformer policy: Llama, Qwen2 and Qwen3 by configuration.

    **Fields:**

    - `embedding`, `layers`, `norm`, `head`: the weights; `head` is `None` when tied.
    - `config`: the shape.
    - `compute_dtype`: of the operands of every matrix product; accumulation, norms and
        softmax are float32.
    - `remat`: recompute each layer's activations in the backward pass.
    """

    embedding: Float[Array, "vocab hidden"]
    layers: Layers
    norm: Float[Array, " hidden"]
    head: Float[Array, "hidden vocab"] | None
    config: TransformerConfig = eqx.field(static=True)
    compute_dtype: str = eqx.field(static=True)
    remat: bool = eqx.field(static=True)

    def __init__(
        self,
        config: TransformerConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        compute_dtype: DTypeLike | None = None,
        remat: bool = False,
        key: Key[Array, ""],
    ):
        """**Arguments:**

        - `config`: the shape.
        - `dtype`: of the weights.
        - `compute_dtype`: of the matrix products; the weights' own by default.
        - `remat`: trades a second forward pass of each layer for its activations.
        - `key`: draws the weights, normal with variance 1 / inputs.
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
        self.remat = remat

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    def empty_cache(self, length: int) -> KVCache:
        config = self.config
        shape = (config.num_layers, length, config.num_kv_heads, config.head_dim)
        return KVCache(*(jnp.zeros(shape, self.compute_dtype) for _ in range(2)))

    def extend(
        self,
        tokens: Int[Array, " chunk"],
        positions: Int[Array, " chunk"],
        cache: KVCache | None = None,
        *,
        column: Int[ArrayLike, ""] = 0,
        visible: Bool[Array, "chunk column"] | None = None,
        context: KVCache | None = None,
        context_length: Int[ArrayLike, ""] | None = None,
    ) -> tuple[Float[Array, "chunk hidden"], KVCache]:
        chunk = tokens.shape[0]
        if cache is None and visible is None:
            visible = jnp.tril(jnp.ones((chunk, chunk), bool))
        elif visible is None:
            raise ValueError(
                "`extend` with a cache needs `visible`, which columns each token sees."
            )
        if (context is None) != (context_length is None):
            raise ValueError(
                "`extend` with a context needs `context_length`, how many of its "
                "columns are visible, and the other way round."
            )
        context_visible = None
        if context is not None and context_length is not None:
            width = context.keys.shape[1]
            context_visible = jnp.arange(width)[None] < context_length

        def block(carry, scanned):
            x, cache = carry
            index, layer, context = scanned
            query, key, value = self._project(layer, x, positions)
            if cache is None:
                written = KVCache(key, value)
                own = (key, value, visible)
            else:
                # One whole cache is carried and written in place: carried as outputs
                # of the scan it would be copied at every token.
                start = (index, jnp.asarray(column, index.dtype), 0, 0)
                cache = KVCache(
                    jax.lax.dynamic_update_slice(cache.keys, key[None], start),
                    jax.lax.dynamic_update_slice(cache.values, value[None], start),
                )
                written = None
                own = (cache.keys[index], cache.values[index], visible)
            sources = [own]
            if context_visible is not None:
                sources.insert(0, (context.keys, context.values, context_visible))
            mixed = attend(query, sources, self.compute_dtype)
            x = x + product(mixed, layer.output, self.compute_dtype)
            x = x + self._mlp(layer, x)
            return (x, cache), written

        if self.remat:
            block = jax.checkpoint(block)
        # Read in the compute dtype here and in `for_decoding` alike.
        x = self.embedding[tokens].astype(self.compute_dtype).astype(jnp.float32)
        indices = jnp.arange(self.config.num_layers, dtype=jnp.int32)
        (x, rewritten), written = jax.lax.scan(
            block, (x, cache), (indices, self.layers, context)
        )
        hidden = rms_norm(x, self.norm, self.config.norm_eps)
        return hidden, cast(KVCache, written if cache is None else rewritten)

    def logits(self, hidden: Float[Array, "*batch hidden"]) -> Float[Array, "*batch v"]:
        head = self.embedding.T if self.head is None else self.head
        return product(hidden, head, self.compute_dtype)

    def for_decoding(self) -> "Transformer":
        """Matrices in the compute dtype, so that no token pays for a cast."""
        cast = lambda x: None if x is None else x.astype(self.compute_dtype)
        matrices = {name: cast(getattr(self.layers, name)) for name in _MATRICES}
        where = lambda p: (p.embedding, p.head, p.layers)
        layers = dataclasses.replace(self.layers, **matrices)
        return eqx.tree_at(
            where,
            self,
            (cast(self.embedding), cast(self.head), layers),
            is_leaf=lambda x: x is None,
        )

    def logical_axes(self) -> "Transformer":
        """The same tree with, for every array, the names of its axes."""
        name = lambda path, _: LOGICAL_AXES[path[-1].name]
        return jax.tree_util.tree_map_with_path(name, self)

    def _project(
        self, layer: Layers, x: Float[Array, "chunk hidden"], positions
    ) -> tuple[Array, Array, Array]:
        """Rotated queries, and keys and values in the dtype of the cache."""
        config, dtype = self.config, self.compute_dtype
        normed = rms_norm(x, layer.attention_norm, config.norm_eps)

        def heads(weight, bias, norm, count):
            y = product(normed, weight, dtype)
            if bias is not None:
                y = y + bias.astype(jnp.float32)[None]
            y = y.reshape(-1, count, config.head_dim)
            return y if norm is None else rms_norm(y, norm, config.norm_eps)

        query = heads(layer.query, layer.query_bias, layer.query_norm, config.num_heads)
        key = heads(layer.key, layer.key_bias, layer.key_norm, config.num_kv_heads)
        value = heads(layer.value, layer.value_bias, None, config.num_kv_heads)
        frequency = config.inverse_frequency
        query, key = (rotate(y, positions, frequency) for y in (query, key))
        return query, key.astype(dtype), value.astype(dtype)

    def _mlp(
        self, layer: Layers, x: Float[Array, "chunk hidden"]
    ) -> Float[Array, "chunk hidden"]:
        dtype = self.compute_dtype
        normed = rms_norm(x, layer.mlp_norm, self.config.norm_eps)
        gate = jax.nn.silu(product(normed, layer.gate, dtype))
        return product(gate * product(normed, layer.up, dtype), layer.down, dtype)
