"""Continuous batching: a thread that decodes requests in the rows of one rollout."""

import collections
import logging
import queue
import threading
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh

from ... import rollout
from ...policy import AbstractPolicy
from ...rollout import Until
from ...text import AbstractTokenizer, StopString
from ...types import Prompt
from ..distributed import mesh as meshes
from ..evaluation.generate import Prompts
from .rows import Chunk, LENGTH, Row, sampler_of, Sampling, STOP


logger = logging.getLogger(__name__)


class _Slot:
    """A row under way, and how many of its tokens have been delivered."""

    def __init__(self, row: Row):
        self.row, self.read = row, 0


_start = eqx.filter_jit(rollout.start)
_lay_out = eqx.filter_jit(lambda policy, rows: policy.for_decoding(rows))
_progress = eqx.filter_jit(rollout.progress)
_release = eqx.filter_jit(rollout.release, donate="all")


@eqx.filter_jit(donate="all-except-first")
def _insert(policy, paused, rows, prompts, limits, sampler, keys):
    states = jnp.zeros_like(rows)
    return rollout.insert(
        paused, policy, rows, states, prompts, limits=limits, sampler=sampler, key=keys
    )


@eqx.filter_jit(donate="all-except-first")
def _advance(policy, paused, until, version):
    return rollout.advance(paused, policy, until, version=version)


class Service:
    """One rollout whose rows are the requests of a server.

    A thread owns the device: it inserts waiting rows where others are over, decodes
    some tokens in all, and delivers them. All its programs are compiled at the start.

    **Arguments:**

    - `policy`, `tokenizer`: of the model.
    - `slots`: rows that are decoded at a time.
    - `max_prompt`, `max_tokens`: the longest prompt and completion, tokens.
    - `chunk`: tokens between two deliveries.
    - `ends`: end of a completion besides the tokenizer's end tokens; see
        `text.split_ends`.
    - `mesh`: of devices, if there is one.

    !!! example

        ```python
        with Service(policy, tokenizer, slots=8) as service:
            service.submit(row)
        ```
    """

    def __init__(
        self,
        policy: AbstractPolicy,
        tokenizer: AbstractTokenizer,
        *,
        slots: int = 16,
        max_prompt: int = 1024,
        max_tokens: int = 1024,
        chunk: int = 8,
        ends: Sequence[int | str | StopString] = (),
        mesh: Mesh | None = None,
    ):
        sizes = dict(
            slots=slots, max_prompt=max_prompt, max_tokens=max_tokens, chunk=chunk
        )
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(
                    f"serve: {name} must be a positive integer. Received {size}."
                )
        self.tokenizer = tokenizer
        self.slots, self.max_prompt, self.max_tokens = slots, max_prompt, max_tokens
        self._chunk, self._ends, self._mesh = chunk, ends, mesh
        # Prefills are of one prompt, or of so many.
        self._many = min(8, slots)
        self._version = 0
        self._waiting: collections.deque[Row] = collections.deque()
        self._rows: list[_Slot | None] = [None] * slots
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._closed = False
        with meshes.use(mesh):
            self._policy = _lay_out(policy, slots)
            self._paused = self._begin()
            self._compile()
        self._thread = threading.Thread(target=self._run, name="serve", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def submit(self, row: Row) -> None:
        """Decodes a row as soon as a slot is free."""
        if self._closed:
            row.deliver(Chunk([], [], [], error="The server has shut down."))
        self._commands.put(lambda: self._waiting.append(row))

    def cancel(self, row: Row) -> None:
        """Ends a row, whether it waits or is decoded; nothing more is delivered."""
        self._commands.put(lambda: self._forget(row))

    def replace_policy(self, policy: AbstractPolicy) -> None:
        """Samples all further tokens from another policy, of the next version."""

        def replace() -> None:
            self._policy = _lay_out(policy, self.slots)
            self._version += 1

        self._commands.put(replace)

    @property
    def active(self) -> int:
        """The number of rows that are decoded."""
        return sum(slot is not None for slot in self._rows)

    def close(self) -> None:
        """Ends the thread; rows under way get an error."""

        def end() -> None:
            self._closed = True

        self._commands.put(end)
        self._thread.join()

    def _run(self) -> None:
        with meshes.use(self._mesh):
            try:
                while not self._closed:
                    self._act()
            finally:
                self._closed = True
                self._fail("The server is shutting down.")

    def _act(self) -> None:
        """Does what was asked for, or waits for that if nothing is decoded."""
        try:
            if not self.active and not self._waiting:
                self._commands.get()()
            while not self._commands.empty():
                self._commands.get()()
            if not self._closed and (self.active or self._waiting):
                self._decode()
        except Exception:
            # Of one request too many for the memory, say. Later ones are answered.
            logger.exception("serve: a step has failed")
            self._fail("The server has failed to decode this request: see its log.")
            self._paused = self._begin()

    def _decode(self) -> None:
        self._insert_waiting()
        until, version = self._until(), jnp.array(self._version)
        self._paused = _advance(self._policy, self._paused, until, version)
        self._deliver()

    def _begin(self) -> rollout.Rollout:
        """A rollout whose rows are all over."""
        env = Prompts(
            [[0] * self.max_prompt],
            self.tokenizer,
            max_completion_length=self.max_tokens,
            ends=self._ends,
        )
        count = self.slots
        prompts = Prompt(
            jnp.zeros((count, self.max_prompt), jnp.int32), jnp.ones(count, jnp.int32)
        )
        paused = _start(
            self._policy,
            env,
            jnp.zeros(count, jnp.int32),
            prompts,
            sampler=sampler_of([Sampling()] * count),
            version=jnp.array(self._version),
            key=jr.key(0),
        )
        return _release(paused, jnp.ones(count, bool))

    def _compile(self) -> None:
        """Runs every program once."""
        row = Row([0], 1, Sampling(), 0, 0, lambda _: None)
        for count in {1, self._many}:
            self._insert([(self.slots, row)] * count, count)
        until = self._until()
        version = jnp.array(self._version)
        self._paused = _advance(self._policy, self._paused, until, version)
        jax.block_until_ready(_progress(self._paused))

    def _until(self) -> Until:
        tokens = jnp.array(self._chunk, jnp.int32)
        if self._mesh is not None:
            return Until(tokens=tokens)  # Shards do not know of each other's rows.
        # A row that ends makes room for one that waits.
        over = self.slots - self.active
        groups = over + 1 if self._waiting else self.slots + 1
        return Until(tokens=tokens, groups=jnp.array(groups, jnp.int32))

    def _insert_waiting(self) -> None:
        free = [i for i, slot in enumerate(self._rows) if slot is None]
        while free and self._waiting:
            most = min(len(free), len(self._waiting))
            size = self._many if 2 * most > self._many else 1
            placed = []
            for place in free[: min(size, most)]:
                row = self._waiting.popleft()
                self._rows[place] = _Slot(row)
                placed.append((place, row))
            del free[: len(placed)]
            self._insert(placed, size)

    def _insert(self, placed: Sequence[tuple[int, Row]], size: int) -> None:
        # Places that are out of bounds are left out.
        padded = [*placed, *[(self.slots, placed[0][1])] * (size - len(placed))]
        tokens = np.zeros((size, self.max_prompt), np.int32)
        for line, (_, row) in zip(tokens, padded, strict=True):
            line[: len(row.prompt)] = row.prompt
        rows = [row for _, row in padded]
        numbers = lambda values: jnp.asarray(np.array(list(values), np.int32))
        self._paused = _insert(
            self._policy,
            self._paused,
            numbers(place for place, _ in padded),
            Prompt(jnp.asarray(tokens), numbers(len(row.prompt) for row in rows)),
            numbers(row.max_tokens for row in rows),
            sampler_of([row.sampling for row in rows]),
            jnp.stack([jr.fold_in(jr.key(row.seed), row.member) for row in rows]),
        )

    def _deliver(self) -> None:
        now = jax.device_get(_progress(self._paused))
        for place, slot in enumerate(self._rows):
            if slot is None:
                continue
            new = slice(slot.read, int(now.length[place]))
            finish = None
            if not now.active[place]:
                finish = STOP if now.terminated[place] else LENGTH
                self._rows[place] = None
            slot.read = new.stop
            columns = now.tokens, now.log_prob, now.version
            tokens, log_probs, versions = (x[place, new].tolist() for x in columns)
            slot.row.deliver(Chunk(tokens, log_probs, versions, finish))

    def _forget(self, row: Row) -> None:
        if row in self._waiting:
            self._waiting.remove(row)
        mask = np.array([slot is not None and slot.row is row for slot in self._rows])
        if mask.any():
            self._rows[int(mask.argmax())] = None
            self._paused = _release(self._paused, jnp.asarray(mask))

    def _fail(self, error: str) -> None:
        under_way = [slot.row for slot in self._rows if slot is not None]
        self._rows = [None] * self.slots
        for row in [*under_way, *self._waiting]:
            row.deliver(Chunk([], [], [], error=error))
        self._waiting.clear()
