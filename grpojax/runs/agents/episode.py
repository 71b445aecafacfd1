"""One run of an agent: its calls, what it was paid, and how it ended."""

import dataclasses
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from starlette.concurrency import run_in_threadpool

from ...calls import call_once
from ...text import AbstractTokenizer
from ..serve.generation import Generation
from ..serve.protocol.fields import Reader, RefusedError
from ..serve.protocol.request import parse_json, read_request, Request
from ..serve.rows import Sampling
from ..serve.service import Service
from .conversation import Conversation, Recorded, seed_of


Agent = Callable[[Mapping[str, Any], str], Any]
"""(columns of the row, base URL of the client) -> reward, or an awaitable of it."""


class Settings(NamedTuple):
    """What all episodes of a rollout have in common."""

    agent: Agent
    tokenizer: AbstractTokenizer
    max_prompt: int
    sampling: Sampling
    seconds: float


class Ended(NamedTuple):
    """An episode that is over.

    **Fields:**

    - `recorded`: its conversation.
    - `reward`: the sum of what was paid.
    - `rejected`: whether nobody has paid.
    - `error`: what the agent raised.
    """

    recorded: Recorded
    reward: float = 0.0
    rejected: bool = False
    error: Exception | None = None


class Episode:
    """A row of a rollout, sampled by an agent.

    **Arguments:**

    - `of`: what it has in common with others.
    - `row`: columns of its problem.
    - `room`: the most tokens after the first prompt.
    - `key`: bits of the row's key.
    """

    def __init__(self, of: Settings, row: Mapping[str, Any], room: int, key: int):
        self._of, self._row, self._key, self._calls = of, row, key, 0
        self._conversation = Conversation(of.tokenizer, of.max_prompt, room)
        self._paid: float | None = None
        self._over, self._lock = False, threading.Lock()

    def run(self, base_url: str) -> Ended:
        """Runs the agent; what it raises is part of the result."""
        error = None
        try:
            agent = self._of.agent
            paid = call_once(lambda: agent(self._row, base_url), {}, self._of.seconds)
            if paid is not None:
                self.pay(paid)
        except Exception as raised:  # A user's code may raise anything.
            error = raised
        with self._lock:
            self._over = True
            recorded = self._conversation.close()
        if self._conversation.full and not isinstance(error, TimeoutError | None):
            # It was told that there is no room: a row that is truncated, not an error.
            error, self._paid = None, self._paid or 0.0
        if not recorded.prompt and error is None:
            error = ValueError("an agent calls the policy at least once")
        return Ended(recorded, self._paid or 0.0, self._paid is None, error)

    def pay(self, reward: Any) -> None:
        """Adds to the reward of the episode.

        **Raises:** `ValueError` or `TypeError` for what is no finite number.
        """
        amount = float(reward)
        if not abs(amount) < float("inf"):
            raise ValueError(f"a reward is a finite number. Received {reward!r:.80}")
        self._paid = amount + (self._paid or 0.0)

    async def begin(
        self, service: Service, pieces: list[bytes], body: bytes, chat: bool
    ) -> tuple[Request, Generation]:
        """Begins the completion of a call."""
        request = await run_in_threadpool(self._read, service, body, chat)
        with self._lock:
            self._check()
            generation = Generation(service, request, pieces)
            self._conversation.begin(generation)
        return request, generation

    def _read(self, service: Service, body: bytes, chat: bool) -> Request:
        given = {k: x for k, x in parse_json(body).items() if x is not None}
        # Whatever an agent calls the model, it is the policy. Prompts are read last,
        # since a conversation remembers them.
        request = read_request(
            {**given, "model": ""},
            self._of.tokenizer,
            chat=chat,
            model="",
            max_prompt=service.max_prompt,
            max_tokens=service.max_tokens,
            prompts=lambda _: [[0]],
        )
        self._check_sampling(given, request)
        with self._lock:
            self._check()
            prompt = self._conversation.ask(Reader(given), chat)
            left, number = self._conversation.left, self._calls
            self._calls += 1
        return dataclasses.replace(
            request,
            prompts=[prompt],
            max_tokens=min(request.max_tokens, left),
            sampling=self._of.sampling,
            seed=seed_of(self._key, number),
        )

    def _check(self) -> None:
        if self._over:
            raise RefusedError(
                "An episode ends with its agent, or after `environment.seconds`. "
                "Received a call of one that is over.",
                status=410,
            )

    def _check_sampling(self, given: Mapping[str, Any], request: Request) -> None:
        """Checks that a call asks for what the rollout samples, once."""
        own = vars(self._of.sampling)
        for name, value in vars(request.sampling).items():
            if name in given and value != own[name]:
                raise RefusedError(
                    f"`{name}` of an episode's calls is that of the rollout, "
                    f"{own[name]}. Received {value}: leave it out.",
                    name,
                )
        if "seed" in given or request.n > 1:
            name = "n" if request.n > 1 else "seed"
            raise RefusedError(
                "A call of an episode is answered once, by the key of its row. Received"
                f" {name}={given[name]!r:.80}: leave it out.",
                name,
            )
