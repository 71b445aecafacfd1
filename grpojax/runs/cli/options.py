"""The options of commands, and the recipes that they ask for."""

import argparse
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..checkpoint.files import CONFIG, find_run
from ..recipe.load import load
from ..recipe.schema import Recipe


_REPEATED = dict(action="append", default=[])

OPTIONS: dict[str, dict[str, Any]] = {
    "recipe": dict(
        nargs="?",
        help="a YAML file; by default the model that is shipped, and made-up problems",
    ),
    "model": dict(
        help="gsm8k-tiny, a directory, a hub id, a run (RUN) or one of its checkpoints "
        "(RUN/checkpoints/N)"
    ),
    "--from": dict(
        metavar="RUN",
        dest="model",
        help="train the policy of a run or of one of its checkpoints on, as a new run; "
        "without a recipe with that of the run",
    ),
    "directory": dict(type=Path, help="directory for the model"),
    "--adapter": dict(
        action="store_true",
        help="write a run's LoRA adapters alone, in PEFT's format; by default they are "
        "merged into the model",
    ),
    "runs": dict(
        metavar="RUN",
        nargs="+",
        type=Path,
        help="a directory; a single one gets the report by default",
    ),
    "run": dict(metavar="RUN", type=Path, help="the directory of a training run"),
    "--step": dict(metavar="N", type=int, required=True, help="which step, from 1"),
    "pipeline": dict(metavar="FILE", help="a YAML file: recipes, tasks, seeds, stages"),
    "--only": dict(
        metavar="N", type=int, nargs="+", help="these runs alone, numbered from 0"
    ),
    "--slurm": dict(
        action="store_true",
        help="print a job script whose tasks are the runs, for sbatch",
    ),
    "--recipe": dict(
        help="problems, and how they are put; by default the run's, if it is one"
    ),
    "--prompt": dict(
        metavar="TEXT",
        help="answer this instead of the problems; may be repeated",
        **_REPEATED,
    ),
    "--problems": dict(metavar="N", type=int, default=4),
    "--samples": dict(metavar="N", type=int, default=1),
    "--host": dict(default="127.0.0.1", help="address to answer at"),
    "--port": dict(metavar="N", type=int, default=8000, help="0 for a free one"),
    "--slots": dict(metavar="N", type=int, default=16, help="requests at a time"),
    "--max-prompt": dict(
        metavar="N", type=int, default=1024, help="the longest prompt, tokens"
    ),
    "--max-tokens": dict(
        metavar="N", type=int, default=1024, help="the longest completion, tokens"
    ),
    "--name": dict(help="the model's name in requests; by default MODEL"),
    "--out": dict(metavar="DIR", type=Path, help="directory for all that is written"),
    "--resume": dict(
        action="store_true",
        help="resume the run in DIR, with its own recipe; if there is none and "
        "a recipe is named, start it",
    ),
    "--dry-run": dict(
        action="store_true",
        help="compile for the shapes of the weights, which are not read, print memory "
        "and shapes, and take no step",
    ),
    "--set": dict(
        metavar="KEY=VALUE",
        help="change one key, such as optimizer.learning_rate=1e-4; may be repeated",
        **_REPEATED,
    ),
    "--max-eval-samples": dict(
        metavar="N",
        type=int,
        help="evaluate only the first N problems: evaluations.NAME.max_problems",
    ),
    "--evaluation": dict(
        metavar="NAME", help="which of the recipe's evaluations; the first by default"
    ),
    "--print-config": dict(action="store_true", help="print the whole recipe and stop"),
    "--coordinator": dict(
        metavar="HOST:PORT", help="address of process 0, with a free port"
    ),
    "--processes": dict(metavar="N", type=int, help="number of processes"),
    "--process": dict(metavar="I", type=int, help="index of this process, from 0"),
}
"""All arguments of all commands, as `argparse` takes them."""

_PROCESSES = ("--coordinator", "--processes", "--process")
RECIPE = ("--set", "--max-eval-samples", "--print-config", *_PROCESSES)
"""Options of the commands that load a recipe."""

TRAIN = ("--out", "--resume", "--from", "--dry-run", *RECIPE)
"""Options of `grpojax train`, except the recipe."""

SERVER = ("--host", "--port", "--slots", "--max-prompt", "--max-tokens", "--name")
"""Options of `grpojax serve` that no other command has."""


def server_of(options: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    """The arguments of a server, by name; its own is that of the model by default."""
    names = [name.strip("-").replace("-", "_") for name in SERVER]
    given = {name: vars(options)[name] for name in names}
    return given | {"name": given["name"] or recipe.model.path}


def add_options(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Adds some of the options to a parser; those of processes are a group."""
    processes = None
    for name in names:
        options, place = OPTIONS[name], parser
        if name in _PROCESSES:
            place = processes = processes or parser.add_argument_group(
                "multi-process runs",
                "Pass all three to each process, or set distributed.processes=auto in "
                "the recipe under SLURM and on TPU pods.",
            )
        if "action" not in options:
            options = {"metavar": name.strip("-").upper(), **options}
        place.add_argument(name, **options)


def joins(options: argparse.Namespace, recipe: Recipe) -> bool:
    """Whether this is one of several processes.

    **Raises:** `ValueError` for an incomplete set of options.
    """
    coordinator: str | None = options.coordinator
    count, index = options.processes, options.process
    if coordinator is None and count is None and index is None:
        return recipe.distributed.processes == "auto"
    if coordinator is not None and count is not None and index is not None:
        port = coordinator.rpartition(":")[2]
        is_port = port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 2**16
        if is_port and 0 <= index < count:
            return True
    raise ValueError(
        "One of several processes needs HOST:PORT of process 0, their number, "
        f"and its own index. Received --coordinator {coordinator} --processes {count} "
        f"--process {index}: pass all three, a port from 1 to 65535, and the index "
        "counted from 0."
    )


def load_recipe(options: argparse.Namespace, environment: Mapping[str, str]) -> Recipe:
    """The recipe of a command line, in which `environment` are variables.

    A `model` overrides `model.path`; a run, or a checkpoint, brings its recipe.

    **Raises:** `FileNotFoundError` for a file that is missing, and for `--from` what is
    no run.
    """
    path, model = vars(options).get("recipe"), vars(options).get("model")
    stage, given = vars(options).get("stage"), list(options.set)
    if stage == "warmup" and path is not None and Path(path).suffix not in _YAML:
        given, path = [f"model.path={path}", *given], None
    if wants_resume(options) and path is None:
        path = options.out / "config.yaml"
    run = None if model is None else find_run(Path(model))
    if run is None and model is not None and "dry_run" in options:
        raise FileNotFoundError(
            "--from continues a run, or a checkpoint RUN/checkpoints/N. There is none "
            f"at {model!r}: check the path; for another model set model.path."
        )
    if run is not None and model is not None and path is None:
        saved = Path(model, CONFIG)
        path = saved if saved.is_file() else run / "config.yaml"
        # The policy of a warm start is trained on, and not warmed up again.
        stage = stage or "train"
    recipe = load(Recipe(), path, given, environment)
    if stage is not None:
        section = dataclasses.replace(recipe.run, stage=stage)
        recipe = dataclasses.replace(recipe, run=section)
    if (most := options.max_eval_samples) is not None:
        given = {x: {"max_problems": most} for x in recipe.evaluations.settings}
        section = recipe.evaluations.with_arguments(given, environment)
        recipe = dataclasses.replace(recipe, evaluations=section)
    if model is not None:
        section = dataclasses.replace(recipe.model, path=model)
        recipe = dataclasses.replace(recipe, model=section)
    check_paths(recipe)
    return recipe


def wants_resume(options: argparse.Namespace) -> bool:
    """Whether there is a run to resume.

    **Raises:** `ValueError` without a directory, `FileNotFoundError` if there is no run
    in it and no recipe to start one.
    """
    if not vars(options).get("resume"):
        return False
    if options.out is None:
        raise ValueError(
            "--resume continues the run in a directory. Received none: name it with "
            "--out."
        )
    if (options.out / "config.yaml").is_file():
        return True
    named = (vars(options).get(name) for name in ("recipe", "set", "model"))
    if not any(named):
        raise FileNotFoundError(
            f"--resume continues a run. There is none in {str(options.out)!r}: check "
            "the path, or name a recipe to start there."
        )
    return False


_YAML = (".yaml", ".yml")
_FILES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".safetensors")


def check_paths(recipe: Recipe) -> None:
    """Checks that the paths named in a recipe exist; imports nothing.

    A name such as `org/name` may be a directory or a hub id, which is resolved on
    loading.

    **Raises:** `FileNotFoundError` for a path that does not exist.
    """
    paths: dict[str, object] = {
        "model.path": recipe.model.path,
        "lora.path": recipe.lora.path,
        "teacher.path": recipe.teacher.path,
    }
    for key in ("path", "eval_path"):
        paths[f"data.{key}"] = recipe.data.option(key)
        for name, settings in recipe.evaluations.settings.items():
            if isinstance(settings.data, Mapping):
                paths[f"evaluations.{name}.data.{key}"] = settings.data.get(key)
    for key, path in paths.items():
        if not isinstance(path, str) or Path(path).exists():
            continue
        file = Path(path).suffix in _FILES
        if file or path.startswith(("/", "./", "../", "~")):
            raise FileNotFoundError(
                f"`{key}` must lead to a file or a directory. There is none at "
                f"{path!r}: check the path."
            )
