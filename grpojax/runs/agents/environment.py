"""Problems that an agent solves, which knows an endpoint alone."""

import importlib.util
from collections.abc import Callable
from typing import Any

import equinox as eqx

from ..._checks import check_counts
from ...env import AbstractAnswerEnvironment, AbstractDatasetEnvironment
from ...host import AbstractHostEnvironment, HostAnswers
from ...text import AbstractTokenizer
from ...types import Trajectory


class AgentEnvironment(AbstractHostEnvironment):
    """The problems of an environment, with rows that an agent samples.

    An agent is a function of a row and of the base URL of an OpenAI client:

        agent(row, base_url) -> reward

    plain or `async`. It is called once for each row of a group, many at a time, and
    asks the policy by chats or completions, as often as it likes. What it returns is
    the reward `environment`; what is posted to `{base_url}/reward` as `{"reward": 1.0}`
    is added to it. An episode that nobody pays is rejected.

    Its calls are one conversation: each has all of the one before, what that was
    answered, and something new; others are refused. The tokens and log-probs of all
    answers are recorded as they were sampled, and all else is never trained on. Tokens
    that the first prompts of a group have in common are its prompt.

    A row whose agent raises, or exceeds `seconds`, is dropped from the step, as a
    rejected one is; both are counted. If the agent raises since there is no room left
    for a completion, its row is truncated.

    The rewards are those of `env` for the last answer, and `environment`. Sampling,
    evaluations and `fit` are as with `host.HostEnvironment`. Tokens follow from the
    keys of a rollout and from what agents ask, but their log-probs may differ by
    rounding with the time that agents take.

    **Fields:**

    - `env`: of numbered problems, in one turn; its horizon is that of all tokens after
        the first prompt.
    - `agent`: the function. It must not use JAX.
    - `tokenizer`: the policy's.
    - `max_prompt`: the most tokens of the first prompt of an episode; by default twice
        the longest of `env`'s own prompts, which agents need not use.
    - `seconds`: the time limit of an episode.
    - `concurrency`: the most episodes at a time.

    **Raises:** `ValueError` for sizes that are not positive, an environment of several
    turns or what is no function, `ImportError` without the packages of the extra
    `serve`.

    !!! example

        ```python
        def agent(row, base_url):
            client = openai.OpenAI(base_url=base_url, api_key="none")
            asked = [{"role": "user", "content": row["question"]}]
            chat = client.chat.completions.create(model="policy", messages=asked)
            return float(row["answer"] in chat.choices[0].message.content)

        env = AgentEnvironment(env, agent, tokenizer)
        ```
    """

    env: AbstractDatasetEnvironment
    agent: Any = eqx.field(static=True)
    tokenizer: AbstractTokenizer = eqx.field(static=True)
    max_prompt: int = eqx.field(static=True)
    max_turns: int = eqx.field(static=True)
    seconds: float = eqx.field(static=True)
    concurrency: int = eqx.field(static=True)

    def __new__(cls, env: AbstractDatasetEnvironment, *_: Any, **__: Any):
        answers = isinstance(env, AbstractAnswerEnvironment)
        return super().__new__(_WithAnswers if answers else cls)  # pyright: ignore

    def __init__(
        self,
        env: AbstractDatasetEnvironment,
        agent: Any,
        tokenizer: AbstractTokenizer,
        *,
        max_prompt: int | None = None,
        seconds: float = 60.0,
        concurrency: int = 64,
    ):
        self.env, self.agent, self.tokenizer = env, agent, tokenizer
        if max_prompt is None and isinstance(env, AbstractDatasetEnvironment):
            max_prompt = 2 * env.max_prompt_length
        self.max_prompt = max_prompt or 0
        self.max_turns, self.stop = 1, None
        self.seconds, self.concurrency = seconds, concurrency

    def __check_init__(self):
        if not isinstance(self.env, AbstractDatasetEnvironment) or (
            self.env.max_turns > 1 or self.env.backend is not None
        ):
            raise ValueError(
                "`AgentEnvironment` needs an environment of numbered problems, in one "
                f"turn. Received {type(self.env).__name__}."
            )
        sizes = {"max_prompt": self.max_prompt, "concurrency": self.concurrency}
        check_counts("AgentEnvironment", 1, **sizes)
        if not self.seconds > 0:
            raise ValueError(
                "`AgentEnvironment.seconds` is the time limit of an episode, above 0. "
                f"Received {self.seconds}."
            )
        if not callable(self.agent):
            raise ValueError(
                "`AgentEnvironment.agent` is a function of a row and a base URL. "
                f"Received {self.agent!r:.80}."
            )
        for name in ("starlette", "uvicorn"):
            if importlib.util.find_spec(name) is None:
                raise ImportError(
                    f"Agents are served by starlette and uvicorn. Received no {name}: "
                    "install them with `pip install 'grpojax[serve]'`."
                )

    @property
    def backend(self) -> Callable[..., Trajectory]:
        return _drive

    @property
    def pays(self) -> bool:
        return True

    def dry_call(self) -> None:
        """Nothing: an agent can be called in a rollout alone."""


class _WithAnswers(AgentEnvironment, HostAnswers):
    """With the answers of an environment that knows them."""


def _drive(*arguments: Any, **options: Any) -> Trajectory:
    from .drive import drive  # It needs the packages of an extra.

    return drive(*arguments, **options)
