"""The completions of one request, while they are decoded."""

import asyncio
import codecs
import dataclasses
from collections.abc import AsyncIterator, Sequence

from ...host import ToolCall
from ...host._episode import spelled
from ...host._parse import split_calls
from .protocol.request import Request
from .rows import Chunk, Row, STOP
from .service import Service


class FailedError(RuntimeError):
    """The server cannot answer; its message is for the client."""


@dataclasses.dataclass
class Completion:
    """A completion so far.

    **Fields:**

    - `prompt`: its tokens.
    - `tokens`, `log_probs`, `versions`: exactly those that were sampled.
    - `text`: of the tokens, before a stop string.
    - `finish`: `"stop"` or `"length"`; `None` while it goes on.
    - `content`, `calls`: the text without calls of tools, and those, at its end.
    """

    prompt: list[int]
    tokens: list[int] = dataclasses.field(default_factory=list)
    log_probs: list[float] = dataclasses.field(default_factory=list)
    versions: list[int] = dataclasses.field(default_factory=list)
    text: str = ""
    finish: str | None = None
    content: str = ""
    calls: Sequence[ToolCall] = ()


@dataclasses.dataclass(frozen=True)
class Delta:
    """What is new of a completion.

    **Fields:**

    - `index`: which completion of the request.
    - `text`, `finish`: as in `Completion`.
    - `tokens`, `log_probs`: the new ones.
    - `calls`: of tools, at the end; the text is held back until then if there are any.
    """

    index: int
    text: str
    tokens: list[int]
    log_probs: list[float]
    finish: str | None
    calls: Sequence[ToolCall] = ()


class TextReader:
    """Tokens to text: whole characters, without what may begin a stop string.

    **Arguments:**

    - `pieces`: the bytes of every token; see `AbstractTokenizer.pieces_as_bytes`.
    - `stops`: strings of which the first one that occurs ends the text, before it.
    """

    def __init__(self, pieces: Sequence[bytes], stops: Sequence[str] = ()):
        self._pieces, self._stops = pieces, [stop.encode() for stop in stops]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = b""
        self.stopped = False

    def read(self, token: int) -> str:
        """The text that one more token makes certain."""
        self._held += self.piece(token)
        found = [self._held.find(stop) for stop in self._stops]
        found = [place for place in found if place >= 0]
        if found:
            self.stopped, self._held = True, self._held[: min(found)]
            return self.flush()
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                break
        else:
            size = 0
        end = len(self._held) - size
        text, self._held = self._held[:end], self._held[end:]
        return self._decoder.decode(text)

    def flush(self) -> str:
        """The rest of the text, at its end."""
        text, self._held = self._decoder.decode(self._held, final=True), b""
        return text

    def piece(self, token: int) -> bytes:
        """The bytes of a token; none for an id without one."""
        return self._pieces[token] if token < len(self._pieces) else b""


class Generation:
    """The rows of a request: `n` of each prompt, prompt by prompt.

    **Fields:**

    - `completions`: of each row.
    - `cancelled`: whether some of them were ended early, since nobody waits for them.
    """

    def __init__(self, service: Service, request: Request, pieces: list[bytes]):
        """Asks the service for all rows; called in an event loop."""
        self._service, self._loop = service, asyncio.get_running_loop()
        self._calls_tools, self.cancelled = request.calls_tools, False
        self._chunks: asyncio.Queue[tuple[int, Chunk]] = asyncio.Queue()
        self.completions: list[Completion] = []
        self._readers: list[TextReader] = []
        self._rows: list[Row] = []
        for prompt in request.prompts:
            for member in range(request.n):
                self.completions.append(Completion(list(prompt)))
                self._readers.append(TextReader(pieces, request.stop))
                self._rows.append(
                    Row(
                        prompt=prompt,
                        max_tokens=request.max_tokens,
                        sampling=request.sampling,
                        seed=request.seed,
                        member=member,
                        deliver=self._deliver_to(len(self._rows)),
                    )
                )
        for row in self._rows:
            service.submit(row)

    def _deliver_to(self, index: int):
        def deliver(chunk: Chunk) -> None:
            try:
                put = self._chunks.put_nowait
                self._loop.call_soon_threadsafe(put, (index, chunk))
            except RuntimeError:
                pass  # The event loop has ended, and with it the client.

        return deliver

    async def deltas(self) -> AsyncIterator[Delta]:
        """What is new, until all completions have ended.

        **Raises:** `FailedError` if the service cannot go on.
        """
        try:
            while any(x.finish is None for x in self.completions):
                index, chunk = await self._chunks.get()
                if chunk.error is not None:
                    raise FailedError(chunk.error)
                if self.completions[index].finish is None:
                    yield self._read(index, chunk)
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Ends the rows that go on; a client that has gone frees its slots."""
        for row, completion in zip(self._rows, self.completions, strict=True):
            if completion.finish is None:
                completion.finish, self.cancelled = STOP, True
                self._service.cancel(row)

    def _read(self, index: int, chunk: Chunk) -> Delta:
        completion, reader = self.completions[index], self._readers[index]
        text, count = "", 0
        for token in chunk.tokens:
            text, count = text + reader.read(token), count + 1
            if reader.stopped:
                break
        finish = STOP if reader.stopped else chunk.finish
        if finish is not None:
            text += reader.flush()
        tokens, log_probs = list(chunk.tokens[:count]), list(chunk.log_probs[:count])
        completion.tokens += tokens
        completion.log_probs += log_probs
        completion.versions += chunk.versions[:count]
        completion.text += text
        completion.finish = finish
        calls: Sequence[ToolCall] = ()
        if self._calls_tools:
            text = ""
            if finish is not None:
                text, calls = self._split(completion)
        completion.content, completion.calls = completion.content + text, calls
        if reader.stopped and chunk.finish is None:
            self._service.cancel(self._rows[index])
        return Delta(index, text, tokens, log_probs, finish, calls)

    def _split(self, completion: Completion) -> tuple[str, Sequence[ToolCall]]:
        """A completion's text without calls of tools, and these."""
        tokenizer, tokens = self._service.tokenizer, completion.tokens
        if tokens and tokens[-1] in tokenizer.end_tokens:
            tokens = tokens[:-1]
        text, calls = split_calls(spelled(tokenizer, tokens))
        return (text, calls) if calls else (completion.text, ())
