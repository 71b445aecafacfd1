"""Export of a policy: `grpojax export`, and the same as a function."""

import os
from pathlib import Path

from ... import models
from ..distributed import mesh as meshes, processes
from ..recipe import build
from ..recipe.policy import base_of
from ..recipe.schema import Recipe


def export(
    recipe: Recipe, directory: str | os.PathLike[str], *, adapter: bool = False
) -> Path:
    """Writes the policy of a recipe's model as a Hugging Face model directory.

    **Arguments:**

    - `recipe`: `model.path` may lead to a run or one of its checkpoints.
    - `directory`: created if it does not exist.
    - `adapter`: write the adapters of a run alone, in PEFT's format, and not the
        weights with the adapters merged.

    **Returns:** the directory.

    **Raises:** `FileExistsError` if there is something in it; `ValueError` or `OSError`
    if there is no such model, or it is damaged.
    """
    path = Path(directory)

    def check() -> None:
        if path.is_dir() and any(path.iterdir()):
            raise FileExistsError(
                f"A model is exported to a directory of its own. {str(path)!r} holds "
                "other files: choose another name, or move them away."
            )

    processes.on_process_0(check)
    mesh = meshes.build_mesh(**vars(recipe.mesh))
    with meshes.use(mesh):
        policy, tokenizer = build.load_model(recipe, mesh, merged=not adapter)
        if adapter:
            models.save_adapters(policy, path, base=base_of(recipe))
        else:
            models.save(policy, path, tokenizer=tokenizer)
    return path
