"""A server on a socket, until a signal ends it."""

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette


def bind(host: str, port: int) -> socket.socket:
    """A socket that a server can answer on.

    **Arguments:**

    - `host`, `port`: where; port 0 for one that is free.

    **Raises:** `OSError` if the port is taken, or there is no such host.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if not 0 <= port < 2**16:  # Else `create_server` leaves its socket open.
            raise OSError("ports are from 0 to 65535")
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(
            "serve: the server needs an address of this machine with a free port. "
            f"Received --host {host} --port {port} ({error}): choose others."
        ) from error


def run(app: Starlette, bound: socket.socket, on_start: Callable[[], None]) -> None:
    """Serves until SIGTERM or SIGINT (Ctrl-C), and returns then.

    **Arguments:**

    - `app`: what answers.
    - `bound`: from `bind`; it is closed in the end.
    - `on_start`: called as soon as requests are answered.
    """

    # Uvicorn ends at these signals, and then raises them again for the handlers of
    # before: the end of a server is no error.
    signals = signal.SIGINT, signal.SIGTERM
    before = [signal.signal(number, lambda *_: None) for number in signals]
    try:
        _Server(app, on_start).run(sockets=[bound])
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
        bound.close()


@contextlib.contextmanager
def background(app: Starlette, bound: socket.socket) -> Iterator[None]:
    """A context in which a thread serves.

    **Arguments:**

    - `app`: what answers.
    - `bound`: from `bind`; it is closed in the end.
    """
    started = threading.Event()
    server = _Server(app, started.set, seconds=1)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [bound]}, name="http", daemon=True
    )
    thread.start()
    try:
        while not started.wait(0.1):
            if not thread.is_alive():
                raise RuntimeError("The server has ended before it began: see its log.")
        yield
    finally:
        server.should_exit = True
        thread.join()
        bound.close()


class _Server(uvicorn.Server):
    """Requests under way have so many `seconds` to end."""

    def __init__(
        self, app: Starlette, on_start: Callable[[], None], *, seconds: int = 5
    ):
        config = uvicorn.Config(
            app,
            log_level="warning",
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=seconds,
        )
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        self._on_start()
