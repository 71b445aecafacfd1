"""The HTTP side of a server: OpenAI's chat and completions."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from .generation import FailedError, Generation
from .protocol.bodies import dump, error_body, event, Form
from .protocol.fields import RefusedError
from .protocol.request import parse_json, read_request, Request
from .service import Service


logger = logging.getLogger(__name__)

MOST_BYTES = 16 * 2**20
"""Of a request's body."""


Begin = Callable[[HttpRequest, bytes, bool], Awaitable[tuple[Request, Generation]]]
"""(HTTP request, its body, whether it is a chat) -> what it asks for, and its rows."""


def make_app(
    service: Service,
    model: str,
    *,
    begin: Begin | None = None,
    prefix: str = "",
    more: Sequence[Route] = (),
) -> Starlette:
    """The application that answers from a service.

    **Arguments:**

    - `service`: decodes.
    - `model`: the name under which its model is served.
    - `begin`: begins the completions of a request; by default each is of its own.
    - `prefix`: of all paths, which may have parameters.
    - `more`: further routes.

    **Returns:** an ASGI application.

    !!! example

        ```python
        client = starlette.testclient.TestClient(make_app(service, "mine"))
        ```
    """
    pieces = service.tokenizer.pieces_as_bytes()

    def read(body: bytes, chat: bool) -> Request:
        return read_request(
            parse_json(body),
            service.tokenizer,
            chat=chat,
            model=model,
            max_prompt=service.max_prompt,
            max_tokens=service.max_tokens,
        )

    async def begin_alone(_: HttpRequest, body: bytes, chat: bool):
        # Tokenizing a long text takes long: other requests go on meanwhile.
        request = await run_in_threadpool(read, body, chat)
        return request, Generation(service, request, pieces)

    def answer(chat: bool) -> Callable[[HttpRequest], Awaitable[Response]]:
        async def respond(http: HttpRequest) -> Response:
            body = await read_body(http)
            request, generation = await (begin or begin_alone)(http, body, chat)
            name = f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}"
            form = Form(request, chat, name, int(time.time()), model, pieces)
            if request.stream:
                return _Stream(generation, form)
            await _finish(generation, http)
            return _json(form.body(generation.completions))

        return respond

    return Starlette(
        routes=[
            *_models(model, prefix),
            Route(f"{prefix}/v1/chat/completions", answer(True), methods=["POST"]),
            Route(f"{prefix}/v1/completions", answer(False), methods=["POST"]),
            *more,
        ],
        exception_handlers={
            RefusedError: _refused,
            RecursionError: _nested,
            FailedError: _failed,
            HTTPException: _not_found,
            ClientDisconnect: _gone,
            Exception: _unexpected,
        },
    )


def _models(model: str, prefix: str) -> list[Route]:
    """The routes that list the one model."""
    card = dict(id=model, object="model", created=int(time.time()), owned_by="grpojax")

    async def models(_: HttpRequest) -> Response:
        return _json({"object": "list", "data": [card]})

    async def one_model(http: HttpRequest) -> Response:
        if http.path_params["name"] != model:
            message = f"There is one model, {model!r}. Received another name."
            raise RefusedError(message, "model", status=404)
        return _json(card)

    path = f"{prefix}/v1/models"
    return [Route(path, models), Route(f"{path}/{{name:path}}", one_model)]


def _json(value: dict, status: int = 200) -> Response:
    return Response(dump(value), status, media_type="application/json")


async def read_body(http: HttpRequest) -> bytes:
    """The body of a request.

    **Raises:** `RefusedError` if it is too long.
    """
    body = b""
    async for part in http.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise RefusedError(
                f"A body must have at most {MOST_BYTES} bytes. Received more: shorten "
                "the prompt.",
                status=413,
            )
    return body


async def _finish(generation: Generation, http: HttpRequest) -> None:
    """Waits for all completions, as long as the client does."""

    async def read() -> None:
        async for _ in generation.deltas():
            pass

    async def leave_with_client() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    reading = asyncio.ensure_future(read())
    leaving = asyncio.ensure_future(leave_with_client())
    try:
        both = {reading, leaving}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            raise ClientDisconnect()
        reading.result()
    finally:
        reading.cancel()
        leaving.cancel()
        generation.cancel()


class _Stream(StreamingResponse):
    """Completions as server-sent events; their rows end with the connection."""

    def __init__(self, generation: Generation, form: Form):
        self._generation, self._form = generation, form
        super().__init__(self._events(), media_type="text/event-stream")

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._generation.cancel()

    async def _events(self) -> AsyncIterator[bytes]:
        for value in self._form.first():
            yield event(value)
        try:
            async for new in self._generation.deltas():
                yield event(self._form.event(new))
        except FailedError as error:
            yield event(error_body(str(error), "server_error"))
            return
        for value in self._form.last(self._generation.completions):
            yield event(value)
        yield b"data: [DONE]\n\n"


async def _refused(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    body = error_body(str(error), "invalid_request_error", error.param)
    return _json(body, error.status)


async def _nested(_: HttpRequest, error: Exception) -> Response:
    del error
    message = "The body must be JSON. Received values that are nested too deeply."
    return _json(error_body(message, "invalid_request_error"), 400)


async def _failed(_: HttpRequest, error: Exception) -> Response:
    return _json(error_body(str(error), "server_error"), 503)


async def _not_found(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = (
        "This server has GET /v1/models, POST /v1/chat/completions and POST "
        f"/v1/completions. Received {http.method} {http.url.path!r:.80}."
    )
    body = error_body(message, "invalid_request_error")
    return _json(body, error.status_code)


async def _gone(_: HttpRequest, error: Exception) -> Response:
    del error
    return Response(status_code=499)  # Nobody reads it.


async def _unexpected(_: HttpRequest, error: Exception) -> Response:
    logger.error("serve: a request has failed", exc_info=error)
    message = "The server has failed to answer this request: see its log."
    return _json(error_body(message, "server_error"), 500)
