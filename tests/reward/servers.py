"""An OpenAI-compatible server in a thread, with the faults of real ones."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Counts requests, and how many it has at a time; waits until it has `together`.

    `answer(text, number)` returns the content for the user's message of a request, or
    a status and a `Retry-After`.
    """

    def __init__(self, answer: Callable, together: int = 1):
        self.answer, self.together, self.port = answer, together, _free_port()
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self.now, self.most, self.changed = 0, 0, threading.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @contextlib.contextmanager
    def running(self) -> Iterator["Server"]:
        server = _Threads(("127.0.0.1", self.port), _handler(self))
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def respond(self, path: str, body: dict, headers: dict):
        assert path == "/v1/chat/completions", path
        with self.changed:
            self.requests.append(body)
            self.headers.append(headers)
            number = len(self.requests)
            self.now += 1
            self.most = max(self.most, self.now)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.most >= self.together, timeout=60)
            self.now -= 1
        return self.answer(body["messages"][-1]["content"], number)


class _Threads(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = server.respond(self.path, body, dict(self.headers))
            status, wait = (200, None) if isinstance(answer, str) else answer
            content = {"choices": [{"message": {"content": answer}}]}
            data = json.dumps(content if status == 200 else {"error": "no"}).encode()
            with contextlib.suppress(ConnectionError):
                self.send_response(status)
                if wait is not None:
                    self.send_header("Retry-After", wait)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    return Handler
