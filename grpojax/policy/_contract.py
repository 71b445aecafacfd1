"""The policy contract: `extend`, `write`, `logits` and `for_decoding`."""

import abc
from typing import Generic, TypeVar

import equinox as eqx
import jax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from ..types import Axes


_Cache = TypeVar("_Cache")


class Past(eqx.Module, Generic[_Cache]):
    """A cache of earlier tokens that a chunk attends to.

    **Fields:**

    - `cache`: returned by `extend` for those tokens, or columns collected from several
        chunks. It is only read, and may be shared by many sequences (`vmap` with
        `in_axes=None`), such as the prompt of a group.
    - `visible`: mask of the columns that each token of the chunk attends to; a single
        row is broadcast over the chunk.
    - `pages`: where `cache` is stacked over streams on axis 1 of its arrays: the blocks
        of columns that the chunk attends to, one after the other, as numbers of those
        of all streams. Only for policies that `reads_pages`.
    """

    cache: _Cache
    visible: Bool[Array, "#chunk column"]
    pages: Int[Array, " page"] | None = None


class ExpertUse(eqx.Module):
    """How much each token of a chunk uses each expert, on average over its layers.

    **Fields:**

    - `probability`: the router's, with a gradient.
    - `chosen`: the share of the layers with experts in which the token has the expert.
    """

    probability: Float[Array, "*chunk expert"]
    chosen: Float[Array, "*chunk expert"]


class AbstractPolicy(eqx.Module, Generic[_Cache]):
    """A language model that is sampled and scored by one function, `extend`.

    Laws, which `grpojax.testing.check_policy` checks:

    - any chunking of a sequence gives the same hidden states as the entire sequence;
    - a token's result depends only on the tokens that it attends to: not on other
      sequences of the batch, padding, masked columns, or the order of columns.
    """

    vocab_size: eqx.AbstractVar[int]
    """Number of logits."""

    @property
    def reads_pages(self) -> bool:
        """Whether `extend` reads a `Past` with `pages`; else they are joined for it."""
        return False

    @abc.abstractmethod
    def extend(
        self,
        tokens: Int[Array, " chunk"],
        positions: Int[Array, " chunk"],
        *past: Past[_Cache],
        visible: Bool[Array, "chunk chunk"] | None = None,
    ) -> tuple[Float[Array, "chunk hidden"], _Cache]:
        """The forward pass of a chunk: an entire prompt, one token, or a completion.

        **Arguments:**

        - `tokens`: the chunk's token ids.
        - `positions`: each token's position in its own sequence.
        - `past`: any number of caches that the chunk attends to.
        - `visible`: attention mask inside the chunk, `visible[query, key]`; causal by
            default.

        **Returns:** the hidden states from which `logits` predicts each next token,
        and the chunk's own cache, one column for each token.
        """

    def extend_routed(
        self,
        tokens: Int[Array, " chunk"],
        positions: Int[Array, " chunk"],
        *past: Past[_Cache],
        visible: Bool[Array, "chunk chunk"] | None = None,
    ) -> tuple[Float[Array, "chunk hidden"], _Cache, ExpertUse]:
        """`extend`, and the experts that the router chose; for policies that have any.

        A penalty of the router needs it (`update.LoadBalance`), and nothing else.

        **Raises:** `ValueError` for a policy without experts, as by default.
        """
        del tokens, positions, past, visible
        raise ValueError(
            "A router chooses among experts. Received a policy of the class "
            f"`{type(self).__name__}` that has none: leave out the penalty "
            "`LoadBalance`, or train a model with experts."
        )

    @abc.abstractmethod
    def write(self, cache: _Cache, chunk: _Cache, column: Int[ArrayLike, ""]) -> _Cache:
        """A cache with a chunk's own cache written to `column` and those after it.

        The layout of a cache is the policy's choice, except that all of its arrays have
        a leading axis other than the columns', such as the layers'. The decode engine
        inserts its axis of slots behind it and, since all slots write to one column,
        calls this for all of them at once, not under `vmap`.

        **Arguments:**

        - `cache`: the cache to write to.
        - `chunk`: a cache that `extend` returned for a chunk.
        - `column`: the first column to write.
        """

    @abc.abstractmethod
    def logits(self, hidden: Float[Array, "*batch hidden"]) -> Float[Array, "*batch v"]:
        """Unnormalized log-probabilities of the next token, float32."""

    @abc.abstractmethod
    def for_decoding(self, rows: int | None = None) -> "AbstractPolicy":
        """The policy laid out for many small steps, such as with weights cast once.

        Its caches may be of another type than this policy's.

        **Arguments:**

        - `rows`: how many sequences are decoded at a time, if that is known.
        """

    def trainable(self) -> PyTree[bool]:
        """The policy's tree with, for every leaf, whether it is trained.

        By default all float arrays are. The other leaves are constants of the update:
        they have neither gradient nor optimizer state, and never change.
        """
        return jax.tree.map(eqx.is_inexact_array, self)

    def logical_axes(self) -> PyTree[Axes]:
        """The logical axes of every array, by which `grpojax.sharding` shards it.

        **Returns:** the policy's tree with `Axes` in the place of every array. By
        default no axis has a name, and the policy is replicated.
        """
        arrays = eqx.filter(self, eqx.is_array)
        return jax.tree.map(lambda x: Axes((None,) * x.ndim, x.shape), arrays)
