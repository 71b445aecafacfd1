"""One configuration for the decoder family: Llama, Qwen2, Qwen3 are values of it."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3's rotary scaling: long wavelengths are slowed, short ones are kept.

    Source: the Llama 3.1 reference, `rope_type="llama3"` in Hugging Face configs.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __call__(self, frequency: Float[np.ndarray, " half"]) -> np.ndarray:
        """Scales inverse wavelengths (radians a position)."""
        wavelength = 2 * math.pi / frequency
        turns = self.original_max_position_embeddings / wavelength
        spread = self.high_freq_factor - self.low_freq_factor
        smooth = np.clip((turns - self.low_freq_factor) / spread, 0, 1)
        return frequency * (smooth + (1 - smooth) / self.factor)


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The shape of a decoder-only transformer.

    **Arguments:**

    - `vocab_size`, `hidden_size`, `intermediate_size`, `num_layers`: sizes.
    - `num_heads`, `num_kv_heads`, `head_dim`: grouped-query attention.
    - `rope_theta`, `rope_scaling`: rotary positions.
    - `norm_eps`: of every RMS norm.
    - `qkv_bias`: biases on the query, key and value projections (Qwen2).
    - `qk_norm`: RMS norms on each query and key head (Qwen3).
    - `tied`: the vocabulary projection is the embedding, transposed.
    - `max_positions`: the longest sequence that the model was made for.

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
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                "Every key-value head serves the same number of query heads, so "
                "num_heads must be a multiple of num_kv_heads. Received "
                f"num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}."
            )
        if self.head_dim % 2:
            raise ValueError(
                "Rotary positions turn pairs of features, so head_dim must be even. "
                f"Received head_dim={self.head_dim}."
            )

    @property
    def inverse_frequency(self) -> Float[np.ndarray, " half"]:
        """Radians that each pair of features turns by at every position, float32."""
        exponent = np.arange(0, self.head_dim, 2, dtype=np.float64) / self.head_dim
        frequency = self.rope_theta**-exponent
        if self.rope_scaling is not None:
            frequency = self.rope_scaling(frequency)
        return frequency.astype(np.float32)
