"""A decoder-only transformer policy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Bool, DTypeLike, Float, Int, Key

from ...policy import AbstractPolicy, Past
from ..attention import check_cache_dtype, KVCache, write_cache
from ..matrix import cast, Int8Matrix, LowRankMatrix
from ._config import TransformerConfig
from ._decoder import Decoder, lay_out
from ._forward import Architecture, forward, unembed
from ._remat import check_remat
from ._weights import Layers, logical_axes


class Transformer(AbstractPolicy[KVCache]):
    """A decoder-only transformer policy: Llama, Qwen2 and Qwen3 by configuration.

    **Fields:**

    - `embedding`, `layers`, `norm`, `head`: the weights; `head` is `None` when tied.
    - `config`: the shape.
    - `compute_dtype`: of the operands of every matrix product; accumulation, norms and
        softmax are float32.
    - `cache_dtype`: in which keys and values are stored while decoding.
    - `remat`: what the backward pass rematerializes; see `__init__`.
    """

    embedding: Float[Array, "vocab hidden"]
    layers: Layers
    norm: Float[Array, " hidden"]
    head: Float[Array, "hidden vocab"] | None
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
        - `cache_dtype`: in which keys and values are stored while decoding: the dtype
            of the matrix products by default, or bfloat16, or int8 with a scale for
            each token and head. Training reads exact ones. With products in 16 bits,
            float32 stores the same numbers, which a CPU need not convert.
        - `remat`: what the backward pass rematerializes: `"nothing"`; `"elementwise"`,
            everything between matrix products; `"mlp"`, that and the products of the
            MLP; or `"layers"`, entire layers.
        - `key`: draws the weights, normal with variance 1 / inputs.

        **Raises:** `ValueError` for an unknown `remat` or `cache_dtype`.
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

        # Looked up, not multiplied: 0.02 as in every model of the family.
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
        hidden, (own,) = forward(
            self._architecture,
            self.embedding,
            (self.layers,),
            self.norm,
            tokens,
            positions,
            stacks,
            visible,
            lambda exact: exact,
        )
        return hidden, own

    def write(
        self, cache: KVCache, chunk: KVCache, column: Int[ArrayLike, ""]
    ) -> KVCache:
        return write_cache(cache, chunk, column)

    def logits(self, hidden: Float[Array, "*batch hidden"]) -> Float[Array, "*batch v"]:
        head = self.embedding.T if self.head is None else self.head
        return unembed(self._architecture, hidden, head)

    def for_decoding(self, rows: int | None = None) -> Decoder:
        dtype = self.compute_dtype
        decoder = Decoder(
            self.embedding.astype(dtype),
            self.layers.map_projections(lambda _, x: cast(x, dtype)),
            self.norm,
            None if self.head is None else self.head.astype(dtype),
            architecture=self._architecture,
            cache_dtype=self.cache_dtype,
        )
        return lay_out(decoder, rows)

    def trainable(self) -> "Transformer":
        """Adapters alone, if there are any; nothing beside them with 8-bit matrices."""
        is_frozen = lambda x: isinstance(x, Int8Matrix | LowRankMatrix)

        def trained(x):
            frozen = jax.tree.map(lambda _: False, x)
            if isinstance(x, LowRankMatrix):
                return eqx.tree_at(lambda x: (x.a, x.b), frozen, (True, True))
            return frozen

        if any(map(is_frozen, jax.tree.leaves(self, is_leaf=is_frozen))):
            return jax.tree.map(trained, self, is_leaf=is_frozen)
        return super().trainable()

    def logical_axes(self) -> "Transformer":
        return logical_axes(self, self.config)

    @property
    def _architecture(self) -> Architecture:
        return Architecture(self.config, self.compute_dtype, self.remat)
