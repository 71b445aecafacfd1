"""The score that reasoning-gym gives to an answer to one of its problems."""

import dataclasses
import importlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..._extras import require
from ..host import text_of
from ._texts import check_pattern, Completions


@dataclasses.dataclass(frozen=True)
class ReasoningGym:
    r"""The score, between 0 and 1, of an answer by reasoning-gym's own `score_answer`.

    A completion in which the pattern is not found has no answer, and what reasoning-gym
    gives for that: 0, as a rule.

    **Fields:**

    - `pattern`: a regular expression whose last match in the completion is the answer,
        its first group if it has one; the whole completion when `None`.

    Columns: `question`, `answer` and `metadata`, as reasoning-gym's rows have them;
    `metadata["source_dataset"]` is the task.

    **Raises:** `ImportError` without the package reasoning-gym, `ValueError` for what
    is no pattern.

    !!! example

        ```python
        score = ReasoningGym()
        reward = HostReward(score, tokenizer.decode, name="reasoning_gym")
        ```
    """

    pattern: str | None = r"(?s)<answer>\s*(.*?)\s*</answer>"

    def __post_init__(self):
        if self.pattern is not None:
            check_pattern("ReasoningGym.pattern", self.pattern)
        require("reasoning_gym", "reward.ReasoningGym")

    def __call__(
        self,
        completions: Completions,
        question: Sequence[str],
        answer: Sequence[str | None],
        metadata: Sequence[Mapping[str, Any]],
    ) -> list[float]:
        gym: Any = importlib.import_module("reasoning_gym")
        tasks = {x["source_dataset"] for x in metadata}
        score = {task: gym.get_score_answer_fn(task) for task in tasks}
        rows = zip(completions, question, answer, metadata, strict=True)
        return [
            float(
                score[of["source_dataset"]](
                    self._answer(text_of(said)),
                    {"question": asked, "answer": right, "metadata": of},
                )
            )
            for said, asked, right, of in rows
        ]

    def _answer(self, text: str) -> str | None:
        if self.pattern is None:
            return text.strip()
        found = [x[x.re.groups > 0] for x in re.finditer(self.pattern, text)]
        return found[-1] if found else None
