"""A server of a recipe's model: `grpojax serve`."""

from collections.abc import Callable

from rich.console import Console

from ..._extras import named_extras
from ..distributed import mesh as meshes
from ..evaluation.printing import echo
from ..recipe import build
from ..recipe.schema import Recipe


def prepare(
    recipe: Recipe,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    slots: int = 16,
    max_prompt: int = 1024,
    max_tokens: int = 1024,
    name: str | None = None,
) -> Callable[[Console], None]:
    """A function that serves, with all loaded and compiled that it needs.

    **Arguments:**

    - `recipe`: the model, and `data.stop`.
    - `host`, `port`: where to answer; port 0 for one that is free.
    - `slots`, `max_prompt`, `max_tokens`: as in `service.Service`.
    - `name`: under which the model is served; by default `model.path`.

    **Raises:** `ValueError` or `OSError` for a size, a model or an address that does
    not fit, `ImportError` without the packages of the extra `serve`.
    """
    with named_extras("grpojax serve"):
        from . import app, run
    from .service import Service

    bound = run.bind(host, port)
    try:
        mesh = meshes.build_mesh(**vars(recipe.mesh))
        policy, tokenizer = build.load_model(recipe, mesh)
        stop = recipe.data.option("stop")
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
    model = recipe.model.path if name is None else name
    place = f"[{host}]" if ":" in host else host
    address = f"http://{place}:{bound.getsockname()[1]}/v1"

    def serve(console: Console) -> None:
        with service:
            said = f"{model} answers at {address}, {slots} requests at a time"
            run.run(app.make_app(service, model), bound, lambda: echo(console, said))

    return serve
