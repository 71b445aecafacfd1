"""A server of a model: `grpojax serve`."""

from collections.abc import Callable
from typing import NamedTuple

from jax.sharding import Mesh
from rich.console import Console

from ..._extras import named_extras
from ...policy import AbstractPolicy
from ...text import AbstractTokenizer
from ..evaluation.printing import echo


class Served(NamedTuple):
    """A model that is served.

    **Fields:**

    - `policy`, `tokenizer`, `mesh`: as in `service.Service`.
    - `stop`: a string that ends completions, if there is one.
    """

    policy: AbstractPolicy
    tokenizer: AbstractTokenizer
    mesh: Mesh | None = None
    stop: str | None = None


def prepare(
    load: Callable[[], Served],
    *,
    name: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    slots: int = 16,
    max_prompt: int = 1024,
    max_tokens: int = 1024,
) -> Callable[[Console], None]:
    """A function that serves, with all loaded and compiled that it needs.

    **Arguments:**

    - `load`: loads the model.
    - `name`: under which it is served.
    - `host`, `port`: where to answer; port 0 for one that is free.
    - `slots`, `max_prompt`, `max_tokens`: as in `service.Service`.

    **Raises:** `ValueError` or `OSError` for a size, a model or an address that does
    not fit, `ImportError` without the packages of the extra `serve`.
    """
    with named_extras("grpojax serve"):
        from . import app, run
    from .service import Service

    bound = run.bind(host, port)
    try:
        policy, tokenizer, mesh, stop = load()
        service = Service(
            policy,
            tokenizer,
            slots=slots,
            max_prompt=max_prompt,
            max_tokens=max_tokens,
            ends=() if stop is None else [stop],
            mesh=mesh,
        )
    except BaseException:
        bound.close()
        raise
    place = f"[{host}]" if ":" in host else host
    address = f"http://{place}:{bound.getsockname()[1]}/v1"

    def serve(console: Console) -> None:
        with service:
            said = f"{name} answers at {address}, {slots} requests at a time"
            run.run(app.make_app(service, name), bound, lambda: echo(console, said))

    return serve
