"""The configuration of a decoder-only transformer: Llama, Mistral, Qwen2 and Qwen3."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3's rotary scaling: divides low frequencies by a factor.

    Frequencies above `high_freq_factor` are unchanged, and those in between are
    interpolated. Source: the Llama 3.1 reference, `rope_type="llama3"` in Hugging Face
    configurations.

    **Fields:**

    - `factor`: divides the frequencies below `low_freq_factor`.
    - `low_freq_factor`, `high_freq_factor`: bounds, in rotations over
        `original_max_position_embeddings`.
    - `original_max_position_embeddings`: the context length before scaling, in tokens.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __call__(self, frequency: Float[np.ndarray, " half"]) -> np.ndarray:
        """Scaled frequencies, in radians per position."""
        wavelength = 2 * math.pi / frequency
        rotations = self.original_max_position_embeddings / wavelength
        width = self.high_freq_factor - self.low_freq_factor
        smooth = np.clip((rotations - self.low_freq_factor) / width, 0, 1)
        return frequency * (smooth + (1 - smooth) / self.factor)


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The shape of a decoder-only transformer.

    **Arguments:**

    - `vocab_size`: rows of the embedding.
    - `hidden_size`: width of the residual stream.
    - `intermediate_size`: width of the MLP.
    - `num_layers`: number of layers.
    - `num_heads`, `num_kv_heads`, `head_dim`: grouped-query attention.
    - `rope_theta`, `rope_scaling`: rotary position embeddings.
    - `norm_eps`: of every RMS norm.
    - `qkv_bias`: biases on the query, key and value projections (Qwen2).
    - `qk_norm`: RMS norms on each query and key head (Qwen3).
    - `tied`: the head is the embedding, transposed.
    - `max_positions`: the longest sequence that the model was trained for, in tokens.

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
    rope_scaling: Llama3Scaling | None = None
    norm_eps: float = 1e-6
    qkv_bias: bool = False
    qk_norm: bool = False
    tied: bool = False
    max_positions: int = 2048

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and (not isinstance(value, int) or value < 1):
                raise ValueError(
                    f"TransformerConfig.{field.name} must be a positive integer. "
                    f"Received {value!r}."
                )
        scaling = self.rope_scaling
        numbers = {"norm_eps": self.norm_eps, "rope_theta": self.rope_theta}
        numbers |= {} if scaling is None else dataclasses.asdict(scaling)
        for name, value in numbers.items():
            if not 0 < value < math.inf:
                raise ValueError(
                    f"TransformerConfig.{name} must be positive and finite. Received "
                    f"{value!r}. Take it from the model's config.json."
                )
        if scaling is not None and scaling.low_freq_factor >= scaling.high_freq_factor:
            raise ValueError(
                "Llama3Scaling interpolates between two bounds, so low_freq_factor "
                f"must be below high_freq_factor. Received {scaling.low_freq_factor} "
                f"and {scaling.high_freq_factor}."
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                "Every key-value head is shared by as many query heads, so "
                "num_heads must be a multiple of num_kv_heads. Received "
                f"num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}."
            )
        if self.head_dim % 2:
            raise ValueError(
                "Rotary embeddings rotate pairs of features, so head_dim must be even. "
                f"Received head_dim={self.head_dim}."
            )

    @property
    def inverse_frequency(self) -> Float[np.ndarray, " half"]:
        """Rotary frequency of each pair of features, in radians per position."""
        exponent = np.arange(0, self.head_dim, 2, dtype=np.float64) / self.head_dim
        frequency = self.rope_theta**-exponent
        if self.rope_scaling is not None:
            frequency = self.rope_scaling(frequency)
        return frequency.astype(np.float32)
