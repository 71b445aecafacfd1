"""Rotary embeddings in a config.json."""

import dataclasses
import math
from collections.abc import Mapping

from ...transformer import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rope,
    RopeScaling,
    YarnScaling,
)
from ._values import integer, number, refuse, switch


_KINDS = {
    "linear": LinearScaling,
    "dynamic": DynamicScaling,
    "llama3": Llama3Scaling,
    "yarn": YarnScaling,
    "longrope": LongRopeScaling,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


@dataclasses.dataclass(frozen=True)
class RopeReader:
    """Reads rotary embeddings as `transformers` does.

    **Fields:**

    - `max_positions`: the model's.
    - `original`: the original length outside of the rope's own values, which goes
        first; `None` for most families.
    - `is_partial`: whether `partial_rotary_factor` may be less than 1.
    - `kinds`: the kinds of scaling by their names; all by default.
    """

    max_positions: int
    original: int | None
    is_partial: bool
    kinds: Mapping[str, str] | None

    def read(self, name: str, rope: object, theta: float, fraction: float) -> Rope:
        """The rotary embedding of one group of values.

        **Arguments:**

        - `name`: of the group, for errors.
        - `rope`: the values.
        - `theta`, `fraction`: if the group has none.
        """
        if not isinstance(rope, dict):
            refuse(name, rope, None)
        written = rope.get("rope_type", rope.get("type", "default"))
        kinds = self.kinds or {kind: kind for kind in ("default", *_KINDS)}
        if not isinstance(written, str) or written not in kinds:
            refuse(f"{name}.rope_type", written, " or ".join(kinds))
        scaling, keys = None, set()
        if kinds[written] != "default":
            scaling, keys = getattr(self, f"_{kinds[written]}")(rope)
        theta = number(rope, "rope_theta", theta)
        fraction = number(rope, "partial_rotary_factor", fraction)
        if fraction > 1 or (fraction != 1 and not self.is_partial):
            refuse(f"{name}.partial_rotary_factor", fraction, 1.0)
        if rope.get("type", written) != written:
            refuse(f"{name}.type", rope["type"], written)
        known = keys | {"rope_theta", "rope_type", "type", "partial_rotary_factor"}
        for key, value in rope.items():
            if key not in known:
                refuse(f"{name}.{key}", value, None)
        return Rope(theta, scaling, fraction)

    def _linear(self, rope: dict) -> tuple[RopeScaling, set[str]]:
        return LinearScaling(number(rope, "factor")), {"factor"}

    def _dynamic(self, rope: dict) -> tuple[RopeScaling, set[str]]:
        return DynamicScaling(number(rope, "factor"), self.max_positions), {"factor"}

    def _llama3(self, rope: dict) -> tuple[RopeScaling, set[str]]:
        scaling = Llama3Scaling(
            factor=number(rope, "factor"),
            low_freq_factor=number(rope, "low_freq_factor"),
            high_freq_factor=number(rope, "high_freq_factor"),
            original_max_position_embeddings=self._original(rope),
        )
        return scaling, set(vars(scaling))

    def _yarn(self, rope: dict) -> tuple[RopeScaling, set[str]]:
        original = self._original(rope)
        factor = number(rope, "factor", self.max_positions / original)

        def growth(weight: float) -> float:
            return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

        amplitude = growth(1.0)
        if rope.get("mscale") and rope.get("mscale_all_dim"):
            every = number(rope, "mscale_all_dim")
            amplitude = growth(number(rope, "mscale")) / growth(every)
        scaling = YarnScaling(
            factor,
            original,
            number(rope, "attention_factor", amplitude),
            number(rope, "beta_fast", 32.0),
            number(rope, "beta_slow", 1.0),
            switch({"truncate": True, **rope}, "truncate"),
        )
        return scaling, {*vars(scaling), "mscale", "mscale_all_dim"}

    def _longrope(self, rope: dict) -> tuple[RopeScaling, set[str]]:
        original = self._original(rope)
        factor = number(rope, "factor", self.max_positions / original)
        amplitude = _longrope_amplitude(factor, original)

        def divisors(key: str) -> tuple[float, ...]:
            values = rope.get(key)
            if not isinstance(values, list):
                refuse(key, values, "a list of numbers")
            return tuple(number({key: one}, key) for one in values)

        scaling = LongRopeScaling(
            divisors("short_factor"),
            divisors("long_factor"),
            original,
            number(rope, "attention_factor", amplitude),
        )
        return scaling, {*vars(scaling), "factor"}

    def _original(self, rope: dict) -> int:
        key = "original_max_position_embeddings"
        return self.original or integer(rope, key, self.max_positions)


def _longrope_amplitude(factor: float, original: int) -> float:
    if factor <= 1 or original == 1:
        return 1.0
    return math.sqrt(1 + math.log(factor) / math.log(original))


def write_longrope(scaling: LongRopeScaling, max_positions: int) -> dict[str, object]:
    """The three values of a Phi-3, beside its `original_max_position_embeddings`."""
    values: dict[str, object] = {"type": "longrope"}
    for key in ("short_factor", "long_factor"):
        values[key] = list(getattr(scaling, key))
    original = scaling.original_max_position_embeddings
    amplitude = _longrope_amplitude(max_positions / original, original)
    if scaling.attention_factor != amplitude:
        values["attention_factor"] = scaling.attention_factor
    return values


def write_rope(rope: Rope) -> dict[str, object]:
    """The values of a rotary embedding, as `transformers` 5 names them."""
    values: dict[str, object] = {"rope_type": "default", "rope_theta": rope.theta}
    if rope.scaling is not None:
        values["rope_type"] = _NAMES[type(rope.scaling)]
        values |= dataclasses.asdict(rope.scaling)
    if isinstance(rope.scaling, DynamicScaling):
        del values["original_max_position_embeddings"]  # It is the model's own.
    return {k: list(x) if isinstance(x, tuple) else x for k, x in values.items()}
