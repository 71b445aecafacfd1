"""An option and a direction, each of which may be missing, as one answer."""

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from grpojax.text import Bytes, ParsedInteger

from ...answers import AbstractAnswer, Checked
from ._direction import Direction, DIRECTIONS
from ._option import Option


class BothGold(eqx.Module):
    """Gold answers of `OptionAndDirection`.

    **Fields:**

    - `option`: its number, and how many there are.
    - `direction`: its index.
    - `has_option`, `has_direction`: whether there is one.
    """

    option: Int[Array | np.ndarray, "*problem 2"]
    direction: Int[Array | np.ndarray, "*problem"]
    has_option: Bool[Array | np.ndarray, "*problem"]
    has_direction: Bool[Array | np.ndarray, "*problem"]


class OptionAndDirection(AbstractAnswer):
    """An option of a slate and the direction of a change, each in its own tag.

        <answer>3</answer><opinion>increase</opinion>

    Its rewards are `video` and `opinion`, 0 or 1, or NaN where the row has no such
    answer, and

        correct = (video + opinion) / how many of the two the row has

    which is 0, 0.5 or 1; and `format`, that both are plain. It is above 0.5 if all that
    the row has is right.

    A gold answer is a mapping of `option`, `of` and `direction`, see `Option` and
    `Direction`; what it lacks is not judged.

    **Fields:**

    - `strict`: as those of `Option` and `Direction`.

    See the reward `pure_accuracy_reward` of GRAIL's training.

    !!! example

        ```python
        kind = OptionAndDirection()
        kind.encode([{"option": 2, "of": 4, "direction": "increase"}])
        ```
    """

    strict: bool = eqx.field(static=True, default=False)

    @property
    def parts(self) -> tuple[Option, Direction]:
        """The kinds of both."""
        return Option(self.strict), Direction(self.strict)

    def read(self, answer: object) -> tuple[tuple[int, int] | None, int | None]:
        if not isinstance(answer, Mapping):
            raise ValueError(
                f"its answer {answer!r} is not a mapping of `option`, `of` and "
                "`direction`"
            )
        option, direction = self.parts
        chosen, moved = answer.get("option"), answer.get("direction")
        return (
            None if chosen is None else option.read(answer),
            None if moved is None else direction.read(moved),
        )

    def stack(self, values: Sequence[tuple[Any, Any]]) -> BothGold:
        options = [(0, 0) if option is None else option for option, _ in values]
        directions = [-1 if moved is None else moved for _, moved in values]
        return BothGold(
            np.array(options, np.int32).reshape(-1, 2),
            np.array(directions, np.int32),
            np.array([option is not None for option, _ in values], bool),
            np.array([moved is not None for _, moved in values], bool),
        )

    def rewards(self, text: Bytes, gold: BothGold) -> dict[str, Float[Array, ""]]:
        option, direction = self.parts
        chosen = option.check(text, jnp.asarray(gold.option))
        moved = direction.check(text, jnp.asarray(gold.direction))
        as_float = lambda flag: jnp.asarray(flag).astype(jnp.float32)
        video = as_float(chosen.correct & gold.has_option)
        opinion = as_float(moved.correct & gold.has_direction)
        count = as_float(gold.has_option) + as_float(gold.has_direction)
        return {
            "correct": (video + opinion) / jnp.maximum(count, 1),
            "format": as_float(chosen.well_formed & moved.well_formed),
            "video": jnp.where(gold.has_option, video, jnp.nan),
            "opinion": jnp.where(gold.has_direction, opinion, jnp.nan),
        }

    def check(self, text: Bytes, gold: BothGold) -> Checked:
        rewards = self.rewards(text, gold)
        return Checked(rewards["correct"] > 0.5, rewards["format"] > 0.5)

    def vote(self, text: Bytes) -> ParsedInteger:
        """`3 * option + direction`; valid if both are there."""
        option, direction = (part.vote(text) for part in self.parts)
        valid = option.valid & direction.valid
        value = len(DIRECTIONS) * option.value + direction.value
        return ParsedInteger(jnp.where(valid, value, 0), valid)

    def gold_vote(self, gold: BothGold) -> Int[Array, ""]:
        gold_option = jnp.asarray(gold.option)[0]
        return len(DIRECTIONS) * gold_option + jnp.asarray(gold.direction)

    def oracle(self, text: bytes, answer: object) -> tuple[bool, bool]:
        option, direction = self.parts
        number, label = self.read(answer)
        # The form is the same whatever the answer is.
        chosen = option.oracle(text, {"option": 1} if number is None else answer)
        moved = direction.oracle(text, DIRECTIONS[0 if label is None else label])
        right = [chosen[0]] * (number is not None) + [moved[0]] * (label is not None)
        return sum(right) / max(len(right), 1) > 0.5, chosen[1] and moved[1]
