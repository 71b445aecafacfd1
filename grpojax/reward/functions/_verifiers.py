"""The reward that an environment of verifiers gives."""

import dataclasses
import functools as ft
import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..._extras import require
from ...calls import Calls
from ..host import text_of
from ._texts import Completions


@dataclasses.dataclass(frozen=True)
class Verifiers:
    r"""The reward of a completion by the rubric of its verifiers environment.

        Σ weight · function(prompt, completion, answer, state, ...)

    over the functions of the rubric, which see the completion as one message of the
    assistant. Functions of a whole group are not called: a rubric with any is refused
    at the dry call.

    **Fields:**

    - `concurrency`: how many rows are scored at a time.
    - `seconds`: the time limit of a row.

    Columns: `verifiers`, the environment's name and arguments, and all that its rows
    have, as the source `verifiers:ENVIRONMENT` reads them.

    **Raises:** `ImportError` without the package verifiers, 0.1 or 0.2.

    !!! example

        ```python
        reward = HostReward(Verifiers(), tokenizer.decode, name="verifiers")
        ```
    """

    concurrency: int = 32
    seconds: float = 60.0

    def __post_init__(self):
        require("verifiers", "reward.Verifiers")
        self.calls  # noqa: B018  # Raises for what is out of range.

    @property
    def calls(self) -> Calls:
        """One call for each row."""
        return Calls(
            batch_size=1, concurrency=self.concurrency, seconds=self.seconds, retries=0
        )

    async def __call__(
        self,
        completions: Completions,
        verifiers: Sequence[Mapping[str, Any]],
        **columns: Sequence[Any],
    ) -> list[float]:
        rewards = []
        for row, (said, origin) in enumerate(zip(completions, verifiers, strict=True)):
            rubric = _rubric(origin["environment"], json.dumps(origin["arguments"]))
            state = _state(text_of(said), {key: x[row] for key, x in columns.items()})
            await rubric.score_rollout(state)
            rewards.append(float(state["reward"]))
        return rewards


@ft.cache
def _rubric(environment: str, arguments: str) -> Any:
    package: Any = importlib.import_module("verifiers")
    rubric = package.load_environment(environment, **json.loads(arguments)).rubric
    functions = rubric._get_reward_funcs()
    of_groups = [x.__name__ for x in functions if rubric._is_group_func(x)]
    if of_groups:
        raise ValueError(
            "reward.Verifiers scores one row at a time. Received the environment "
            f"{environment!r}, whose rubric has functions of a group: "
            f"{', '.join(of_groups)}. Use its functions as rewards of their own."
        )
    return rubric


def _state(said: str, columns: Mapping[str, Any]) -> Any:
    """What a rollout of the environment would leave behind."""
    package: Any = importlib.import_module("verifiers")
    own = {"prompts", "completion_ids", "completion_lengths"}
    row = {key: value for key, value in columns.items() if key not in own}
    if isinstance(row.get("info"), str):
        row["info"] = json.loads(row["info"])
    state = package.State(input=row)
    state.update(
        prompt=row.get("prompt"),
        completion=[{"role": "assistant", "content": said}],
        answer=row.get("answer", ""),
        info=row.get("info") or {},
        task=row.get("task", row),
        trajectory=[],
        is_completed=True,
        is_truncated=False,
        error=None,
    )
    return state
