"""Rotary position embeddings as values, and the kinds of layers that have them."""

import dataclasses
import math
from typing import ClassVar

import numpy as np
from jaxtyping import Float


Frequencies = Float[np.ndarray, " half"]
"""Radians per position of each pair of features, float64."""


class _Scaling:
    """What scalings have in common.

    `amplitude` multiplies cosines and sines; `limit` is the longest sequence for which
    the frequencies are these, in tokens.
    """

    amplitude: ClassVar[float] = 1.0
    limit: ClassVar[int | None] = None

    def __call__(self, frequency: Frequencies, theta: float) -> Frequencies:
        """Scaled frequencies."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Llama3Scaling(_Scaling):
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

    def check(self):
        """Raises a `ValueError` for bounds that are not in order."""
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                "Llama3Scaling interpolates between two bounds, so low_freq_factor "
                f"must be below high_freq_factor. Received {self.low_freq_factor} "
                f"and {self.high_freq_factor}."
            )

    def __call__(self, frequency: Frequencies, theta: float) -> Frequencies:
        del theta
        wavelength = 2 * math.pi / frequency
        rotations = self.original_max_position_embeddings / wavelength
        width = self.high_freq_factor - self.low_freq_factor
        smooth = np.clip((rotations - self.low_freq_factor) / width, 0, 1)
        return frequency * (smooth + (1 - smooth) / self.factor)


@dataclasses.dataclass(frozen=True)
class LinearScaling(_Scaling):
    """All frequencies divided by `factor`: `rope_type="linear"`."""

    factor: float

    def __call__(self, frequency: Frequencies, theta: float) -> Frequencies:
        del theta
        return frequency / self.factor


@dataclasses.dataclass(frozen=True)
class DynamicScaling(_Scaling):
    """Frequencies that change past the original length: `rope_type="dynamic"`.

    `transformers` computes them anew for the length of every text, so keys in a cache
    would be of several lengths. Up to the original length they are unscaled, and longer
    sequences are refused.

    **Fields:**

    - `factor`: of the frequencies of longer texts; kept for the file.
    - `original_max_position_embeddings`: the longest sequence, in tokens.
    """

    factor: float
    original_max_position_embeddings: int

    @property
    def limit(self) -> int:
        return self.original_max_position_embeddings

    def __call__(self, frequency: Frequencies, theta: float) -> Frequencies:
        del theta
        return frequency


@dataclasses.dataclass(frozen=True)
class YarnScaling(_Scaling):
    """YaRN: low frequencies divided by a factor, and larger scores.

    Source: arXiv:2309.00071, `rope_type="yarn"` in Hugging Face configurations.

    **Fields:**

    - `factor`: divides the frequencies that turn less than `beta_slow` times.
    - `original_max_position_embeddings`: the context length before scaling, in tokens.
    - `attention_factor`: multiplies cosines and sines.
    - `beta_fast`, `beta_slow`: bounds, in rotations over the original length.
    - `truncate`: rounds the bounds outwards to whole pairs of features.
    """

    factor: float
    original_max_position_embeddings: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True

    @property
    def amplitude(self) -> float:
        return self.attention_factor

    def __call__(self, frequency: Frequencies, theta: float) -> Frequencies:
        pairs = len(frequency)

        def pair(rotations: float) -> float:
            length = self.original_max_position_embeddings
            turns = length / (rotations * 2 * math.pi)
            return pairs * math.log(turns) / math.log(theta)

        low, high = pair(self.beta_fast), pair(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * pairs - 1)
        high += 0.001 if low == high else 0  # As the reference avoids a division by 0.
        ramp = np.clip((np.arange(pairs) - low) / (high - low), 0, 1)
        return frequency * (1 - ramp + ramp / self.factor)


@dataclasses.dataclass(frozen=True)
class LongRopeScaling(_Scaling):
    """LongRoPE: a divisor for each frequency: `rope_type="longrope"`.

    The long divisors apply to texts beyond the original length, and change all of their
    positions. The short ones are used, and longer sequences are refused.

    **Fields:**

    - `short_factor`: the divisors of texts up to the original length.
    - `long_factor`: those of longer texts; kept for the file.
    - `original_max_position_embeddings`: the longest sequence, in tokens.
    - `attention_factor`: multiplies cosines and sines.

    Source: arXiv:2402.13753.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_position_embeddings: int
    attention_factor: float

    @property
    def amplitude(self) -> float:
        return self.attention_factor

    @property
    def limit(self) -> int:
        return self.original_max_position_embeddings

    def __call__(self, frequency: Frequencies, theta: float) -> Frequencies:
        del theta
        return frequency / np.asarray(self.short_factor)


RopeScaling = (
    Llama3Scaling | LinearScaling | DynamicScaling | YarnScaling | LongRopeScaling
)
"""Any scaling of rotary frequencies."""


@dataclasses.dataclass(frozen=True)
class Rope:
    """A rotary position embedding (arXiv:2104.09864).

    **Fields:**

    - `theta`: the base of the frequencies.
    - `scaling`: of the frequencies, for longer contexts.
    - `fraction`: of each head's features that is rotated, the first ones.
    """

    theta: float = 10_000.0
    scaling: RopeScaling | None = None
    fraction: float = 1.0

    def rotated(self, head_dim: int) -> int:
        """How many features of a head are rotated."""
        return int(head_dim * self.fraction)

    def inverse_frequency(self, head_dim: int) -> Float[np.ndarray, " half"]:
        """Rotary frequency of each pair of features, in radians per position."""
        size = self.rotated(head_dim)
        frequency = self.theta ** -(np.arange(0, size, 2, dtype=np.float64) / size)
        if self.scaling is not None:
            frequency = self.scaling(frequency, self.theta)
        return frequency.astype(np.float32)

    @property
    def amplitude(self) -> float:
        """Multiplies cosines and sines."""
        return 1.0 if self.scaling is None else self.scaling.amplitude

    @property
    def limit(self) -> int | None:
        """The longest sequence for which the frequencies are these, in tokens."""
        return None if self.scaling is None else self.scaling.limit


@dataclasses.dataclass(frozen=True)
class LayerKind:
    """What the attention of some layers has of its own.

    **Fields:**

    - `window`: how many tokens a token attends to, its own included; all by default.
    - `rope`: the rotary embedding; `None` for a layer without one (NoPE).
    """

    window: int | None = None
    rope: Rope | None = Rope()
