"""A decoder-only transformer policy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Bool, DTypeLike, Float, Int, Key, PyTree

from ...policy import AbstractPolicy, ExpertUse, Past
from ..attention import check_cache_dtype
from ..matrix import AbstractMatrix, as_matrix
from ._architecture import Architecture, check_remat
from ._config import TransformerConfig
from ._decoder import Decoder, lay_out, write_caches
from ._forward import forward
from ._layers import unembed
from ._weights import initial_layers, Layers, logical_axes


class Transformer(AbstractPolicy[PyTree]):
    """A decoder-only transformer policy: Llama, Qwen, Gemma ... by configuration.

    Its cache is a `KVCache`; with windows, that and the position of every column.

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
        hidden = config.hidden_size
        experts = config.switches.experts
        count = 9 if experts is None else 13 if experts.shared is None else 17
        keys = iter(jr.split(key, count))

        def matrix(*shape: int) -> Array:
            return (jr.normal(next(keys), shape) * shape[-2] ** -0.5).astype(dtype)

        # Looked up, not multiplied: 0.02 as in every model of the family.
        embedding = jr.normal(next(keys), (config.vocab_size, hidden)) * 0.02
        self.embedding = embedding.astype(dtype)
        self.layers = initial_layers(config, matrix, dtype)
        self.norm = jnp.full((hidden,), 1 - config.switches.norm_offset, dtype)
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
        *past: Past[PyTree],
        visible: Bool[Array, "chunk chunk"] | None = None,
    ) -> tuple[Float[Array, "chunk hidden"], PyTree]:
        return self._extend(tokens, positions, past, visible)[:2]

    def extend_routed(
        self,
        tokens: Int[Array, " chunk"],
        positions: Int[Array, " chunk"],
        *past: Past[PyTree],
        visible: Bool[Array, "chunk chunk"] | None = None,
    ) -> tuple[Float[Array, "chunk hidden"], PyTree, ExpertUse]:
        if self.config.switches.experts is None:
            return super().extend_routed(tokens, positions, *past, visible=visible)
        hidden, own, use = self._extend(tokens, positions, past, visible, routes=True)
        assert use is not None
        return hidden, own, use

    def write(self, cache: PyTree, chunk: PyTree, column: Int[ArrayLike, ""]) -> PyTree:
        return write_caches(cache, chunk, column)

    def logits(self, hidden: Float[Array, "*batch hidden"]) -> Float[Array, "*batch v"]:
        head = self.embedding.T if self.head is None else self.head
        return unembed(self._architecture, hidden, head)

    def for_decoding(self, rows: int | None = None) -> Decoder:
        dtype = self.compute_dtype
        decoder = Decoder(
            self.embedding.astype(dtype),
            self.layers.map_projections(lambda _, x: as_matrix(x).cast(dtype)),
            self.norm,
            None if self.head is None else self.head.astype(dtype),
            architecture=self._architecture,
            cache_dtype=self.cache_dtype,
        )
        return lay_out(decoder, rows)

    def trainable(self) -> "Transformer":
        """What its matrices train, such as adapters, if any is more than an array."""
        is_matrix = lambda x: isinstance(x, AbstractMatrix)
        if not any(map(is_matrix, jax.tree.leaves(self, is_leaf=is_matrix))):
            return super().trainable()
        trained = lambda x: x.trainable() if is_matrix(x) else False
        return jax.tree.map(trained, self, is_leaf=is_matrix)

    def logical_axes(self) -> "Transformer":
        return logical_axes(self, self.config)

    @property
    def _architecture(self) -> Architecture:
        return Architecture(self.config, self.compute_dtype, self.remat)

    def _extend(
        self,
        tokens: Int[Array, " chunk"],
        positions: Int[Array, " chunk"],
        past: tuple[Past[PyTree], ...],
        visible: Bool[Array, "chunk chunk"] | None,
        *,
        routes: bool = False,
    ):
        """What `forward` returns; the cache without a tuple if it has one part."""
        bare = not self.config.has_windows
        stacks = [(one.cache,) if bare else one.cache for one in past]
        hidden, own, use = forward(
            self._architecture,
            self.embedding,
            (self.layers,),
            self.norm,
            tokens,
            positions,
            tuple(map(Past, stacks, (one.visible for one in past))),
            visible,
            lambda exact: exact,
            routes=routes,
        )
        return hidden, own[0] if bare else own, use
