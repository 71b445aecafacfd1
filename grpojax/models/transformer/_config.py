"""The configuration of a decoder-only transformer."""

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

from ._rope import LayerKind, Llama3Scaling, Rope, RopeScaling


_NORMS = ("before", "after", "both")
_ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh")


@dataclasses.dataclass(frozen=True)
class Experts:
    """The experts in the place of a layer's MLP: a mixture of experts.

    **Fields:**

    - `count`: experts of a layer.
    - `chosen`: how many of them each token has.
    - `size`: width of an expert.
    - `normalizes`: whether the weights of a token's experts sum to 1; otherwise they
        are probabilities out of all experts.
    - `dense`: numbers of the layers, from 0, that have an MLP instead.
    - `shared`: width of one more expert, which every token has, times the sigmoid of a
        router of its own (Qwen2-MoE); none by default.
    - `biases`: whether the router and all experts have biases (gpt-oss).
    - `clamp`: (gain, limit): hidden units are (up + 1) · gate · sigmoid(gain · gate),
        where gate is at most the limit and up between -limit and limit (gpt-oss); by
        default they are up · activation(gate).
    """

    count: int
    chosen: int
    size: int
    normalizes: bool = True
    dense: tuple[int, ...] = ()
    shared: int | None = None
    biases: bool = False
    clamp: tuple[float, float] | None = None

    def check(self, num_layers: int) -> None:
        """Raises a `ValueError` for sizes that no layer can have."""
        for name in ("count", "chosen", "size", "shared"):
            value = getattr(self, name)
            if name == "shared" and value is None:
                continue
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"Experts.{name} must be a positive integer. Received {value!r}."
                )
        if self.chosen > self.count:
            raise ValueError(
                "A token's experts are some of the layer's. Received "
                f"Experts(count={self.count}, chosen={self.chosen})."
            )
        if set(self.dense) - set(range(num_layers)) or len(self.dense) == num_layers:
            raise ValueError(
                "Experts.dense numbers the layers without experts, and some layer has "
                f"experts. Received {self.dense} for {num_layers} layers."
            )


class Block(NamedTuple):
    """What a layer has that Llama's has not, or computes otherwise.

    **Fields:**

    - `norms`: `"before"` attention and MLP, `"after"` them (OLMo 2), or `"both"`
        (Gemma).
    - `norm_offset`: added to the scale of every norm: 1 for Gemma.
    - `qk_norm_over_heads`: query and key norms are over all heads at once (OLMo 2).
    - `activation`: of the gate: `"silu"`, `"gelu"`, or `"gelu_pytorch_tanh"`.
    - `output_bias`: a bias on attention's output projection.
    - `mlp_bias`: biases on the MLP's projections.
    - `attention_scale`: multiplies scores; 1 / sqrt(head_dim) by default.
    - `attention_cap`: scores are cap · tanh(score / cap), below it (Gemma 2).
    - `residual_scale`: multiplies what is added to the residual stream (Granite).
    - `query_growth`: (beta, length) multiplies queries by
        1 + beta · log(1 + floor(position / length)) (Llama 4, Ministral 3).
    - `experts`: in the place of the MLP (Mixtral, Qwen3-MoE).
    - `attention_sinks`: the softmax of each head has one more score, a weight of its
        own, whose column has no value (gpt-oss).
    """

    norms: str = "before"
    norm_offset: float = 0.0
    qk_norm_over_heads: bool = False
    activation: str = "silu"
    output_bias: bool = False
    mlp_bias: bool = False
    attention_scale: float | None = None
    attention_cap: float | None = None
    residual_scale: float = 1.0
    query_growth: tuple[float, int] | None = None
    experts: Experts | None = None
    attention_sinks: bool = False


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The shape of a decoder-only transformer.

    **Arguments:**

    - `vocab_size`: rows of the embedding.
    - `hidden_size`: width of the residual stream.
    - `intermediate_size`: width of the MLP.
    - `num_layers`: number of layers.
    - `num_heads`, `num_kv_heads`, `head_dim`: grouped-query attention.
    - `rope_theta`, `rope_scaling`: the rotary position embedding of all layers.
    - `norm_eps`: of every RMS norm.
    - `qkv_bias`: biases on the query, key and value projections (Qwen2).
    - `qk_norm`: RMS norms on each query and key head (Qwen3).
    - `tied`: the head is the embedding, transposed.
    - `max_positions`: the longest sequence that the model was trained for, in tokens.
    - `layers`: the kind of every layer, where windows or rotary embeddings are others
        than `rope_theta` and `rope_scaling` say; they are not read then.
    - `block`: the switches of a layer; Llama's by default.
    - `embedding_scale`: multiplies embeddings; rounded to the compute dtype.
    - `logits_divisor`, `logits_cap`: logits are divided, then capped as scores are.
    - `family`: the `model_type` that the model is saved as, if its shape is not enough
        to tell.

    **Raises:** `ValueError` for sizes that are not positive or do not divide.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-6
    qkv_bias: bool = False
    qk_norm: bool = False
    tied: bool = False
    max_positions: int = 2048
    layers: tuple[LayerKind, ...] | None = None
    block: Block | None = None
    embedding_scale: float | None = None
    logits_divisor: float | None = None
    logits_cap: float | None = None
    family: str | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and (not isinstance(value, int) or value < 1):
                raise ValueError(
                    f"TransformerConfig.{field.name} must be a positive integer. "
                    f"Received {value!r}."
                )
        for name, value in self._numbers():
            if not 0 < value < math.inf:
                raise ValueError(
                    f"TransformerConfig.{name} must be positive and finite. Received "
                    f"{value!r}. Take it from the model's config.json."
                )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                "Every key-value head is shared by as many query heads, so "
                "num_heads must be a multiple of num_kv_heads. Received "
                f"num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}."
            )
        if self.layers and len(self.layers) != self.num_layers:
            raise ValueError(
                "TransformerConfig.layers names the kind of every layer. Received "
                f"{len(self.layers)} kinds for {self.num_layers} layers."
            )
        if self.switches.experts is not None:
            self.switches.experts.check(self.num_layers)
        for name, known in (("norms", _NORMS), ("activation", _ACTIVATIONS)):
            if getattr(self.switches, name) not in known:
                raise ValueError(
                    f"Block.{name} is one of {', '.join(known)}. Received "
                    f"{getattr(self.switches, name)!r}."
                )
        for rope in self.ropes:
            scaling = None if rope is None else rope.scaling
            if isinstance(scaling, Llama3Scaling):
                scaling.check()
            size = self.head_dim if rope is None else rope.rotated(self.head_dim)
            if rope is not None and (size % 2 or size == 0):
                raise ValueError(
                    "Rotary embeddings rotate pairs of features, so head_dim must be "
                    f"even. Received head_dim={self.head_dim}, of which {size} are "
                    "rotated."
                )

    def _numbers(self) -> Iterator[tuple[str, float]]:
        """Everything that must be positive and finite, by name."""
        optional = ("embedding_scale", "logits_divisor", "logits_cap")
        block = ("attention_scale", "attention_cap", "residual_scale")
        yield "norm_eps", self.norm_eps
        for owner, names in ((self, optional), (self.switches, block)):
            found = {name: getattr(owner, name) for name in names}
            yield from ((name, x) for name, x in found.items() if x is not None)
        for rope in self.ropes:
            if rope is None:
                continue
            yield "rope_theta", rope.theta
            yield "rope_fraction", rope.fraction
            for name, value in vars(rope.scaling).items() if rope.scaling else ():
                if not isinstance(value, bool):
                    several = value if isinstance(value, tuple) else (value,)
                    yield from ((name, one) for one in several)
        windows = {kind.window for kind in self.kinds}
        yield from (("window", window) for window in windows if window is not None)

    @property
    def switches(self) -> Block:
        """The switches of a layer."""
        return self.block or Block()

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """The kinds of layers that there are, each once."""
        plain = LayerKind(None, Rope(self.rope_theta, self.rope_scaling))
        return tuple(dict.fromkeys(self.layers or ())) or (plain,)

    @property
    def layer_kinds(self) -> tuple[int, ...]:
        """For every layer, which of `kinds` it is."""
        kinds = self.kinds
        return tuple(map(kinds.index, self.layers or ())) or (0,) * self.num_layers

    @property
    def has_experts(self) -> tuple[bool, ...]:
        """For every layer, whether it has experts."""
        experts = self.switches.experts
        if experts is None:
            return (False,) * self.num_layers
        return tuple(layer not in experts.dense for layer in range(self.num_layers))

    @property
    def ropes(self) -> tuple[Rope | None, ...]:
        """The rotary embeddings of `kinds`, each once."""
        return tuple(dict.fromkeys(kind.rope for kind in self.kinds))

    @property
    def has_windows(self) -> bool:
        """Whether any layer attends to a window."""
        return any(kind.window is not None for kind in self.kinds)

    @property
    def limit(self) -> int | None:
        """The longest sequence that is computed as it should be, if there is a bound.

        Beyond it a rotary scaling would depend on the length of the text.
        """
        limits = [rope.limit for rope in self.ropes if rope is not None]
        return min((x for x in limits if x is not None), default=None)
