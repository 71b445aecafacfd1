"""The endpoint of a rollout: a server on loopback, with a path for each episode."""

import contextlib
import secrets
from collections.abc import Iterator, Mapping, Sequence

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..serve import run
from ..serve.app import make_app, read_body
from ..serve.generation import Generation
from ..serve.protocol.fields import refuse, RefusedError
from ..serve.protocol.request import parse_json, Request
from ..serve.service import Service
from .episode import Episode


_MODEL = "policy"


@contextlib.contextmanager
def serve(service: Service, episodes: Sequence[Episode]) -> Iterator[list[str]]:
    """A context in which episodes are served, and the base URL of each.

    **Arguments:**

    - `service`: decodes.
    - `episodes`: of a rollout.
    """
    # Names that nobody guesses: a call of an episode before may come late.
    named = {secrets.token_hex(8): episode for episode in episodes}
    bound = run.bind("127.0.0.1", 0)
    address = f"http://127.0.0.1:{bound.getsockname()[1]}/episodes"
    with run.background(_app(service, named), bound):
        yield [f"{address}/{name}/v1" for name in named]


def _app(service: Service, episodes: Mapping[str, Episode]) -> Starlette:
    pieces = service.tokenizer.pieces_as_bytes()

    def find(http: HttpRequest) -> Episode:
        episode = episodes.get(http.path_params["episode"])
        if episode is None:
            raise RefusedError(
                "A call names an episode of the rollout by its path. Received another "
                "one: use the base URL that the agent is given.",
                status=404,
            )
        return episode

    async def begin(
        http: HttpRequest, body: bytes, chat: bool
    ) -> tuple[Request, Generation]:
        return await find(http).begin(service, pieces, body, chat)

    async def pay(http: HttpRequest) -> Response:
        reward = parse_json(await read_body(http)).get("reward")
        try:
            find(http).pay(reward)
        except (TypeError, ValueError, OverflowError):
            raise refuse("reward", "a finite number", reward) from None
        return JSONResponse({"reward": reward})

    path = "/episodes/{episode}"
    reward = Route(f"{path}/v1/reward", pay, methods=["POST"])
    return make_app(service, _MODEL, begin=begin, prefix=path, more=[reward])
