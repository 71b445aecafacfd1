"""The direction of the arrows: who may import whom."""

import ast
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]

LAYERS = {
    "_files": 0,
    "_checks": 0,
    "_extras": 0,
    "calls": 0,
    "types": 0,
    "masked": 0,
    "measures": 0,
    "env": 1,
    "policy": 1,
    "sharding": 1,
    "text": 1,
    "rollout": 2,
    "reward": 2,
    "advantage": 2,
    "curriculum": 2,
    "update": 2,
    "models": 2,
    "algorithms": 3,
    "asynchronous": 1,
    "host": 3,
    "validation": 1,
    "_train": 4,
    "testing": 4,
    "runs": 5,
    "__main__": 6,
}
SIBLINGS = {name for name, layer in LAYERS.items() if layer == 2}
FOUNDATION = {"jax", "equinox", "jaxtyping", "numpy"}
STANDARD = {
    "abc", "collections", "dataclasses", "functools", "inspect", "math", "typing"
}  # fmt: skip


def modules(package: str):
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Full dotted names of everything that a file imports, wherever it does."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module in ("", "grpojax"):
                names |= {f"{module}.{alias.name}" for alias in node.names}
            else:
                names.add(module)
    return names


def part(name: str) -> str | None:
    """The part of the library that a dotted name belongs to."""
    words = name.split(".")
    return words[1] if words[0] == "grpojax" and len(words) > 1 else None


@pytest.mark.parametrize("path", modules("grpojax"), ids=lambda p: p.name)
def test_imports_point_downwards(path):
    own = path.relative_to(ROOT / "grpojax").with_suffix("").parts[0]
    if own == "__init__":
        return
    for name in imported(path):
        assert name.split(".")[0] not in ("envs", "examples", "benchmarks", "tests")
        other = part(name)
        if other is None or other == own:
            continue
        assert other in LAYERS, f"{path}: {name} belongs to no layer"
        assert LAYERS[other] <= LAYERS[own], f"{path} ({own}) imports {name} above it"
        if own in SIBLINGS:
            assert other not in SIBLINGS, f"{path}: phases never import each other"
        if own in ("_train", "testing"):
            assert other != "models", f"{path} may not know a concrete model"


@pytest.mark.parametrize("name", ["_checks", "types", "masked"])
def test_the_foundation_needs_only_jax(name):
    for other in imported(ROOT / "grpojax" / f"{name}.py"):
        assert other.split(".")[0] in FOUNDATION | STANDARD


@pytest.mark.parametrize("path", modules("envs"), ids=lambda p: p.name)
def test_environments_know_layers_0_and_1(path):
    for name in imported(path):
        other = part(name)
        if other is not None:
            assert LAYERS[other] <= 1, f"{path} imports {name}"
        assert name.split(".")[0] not in ("examples", "benchmarks", "tests")


@pytest.mark.parametrize(
    "path", [*modules("grpojax"), *modules("envs")], ids=lambda p: p.name
)
def test_the_library_neither_prints_nor_reads_the_environment(path):
    if path == ROOT / "grpojax" / "__main__.py":
        return  # The command: it hands the environment to those who may not read it.
    runs = path.is_relative_to(ROOT / "grpojax" / "runs")
    source = path.read_text()
    assert "from __future__ import annotations" not in source
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert runs or node.func.id != "print", f"{path} prints"
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("environ", "getenv"), f"{path}: environment"


MODELS = ("matrix", "attention", "experts", "transformer", "files")


@pytest.mark.parametrize("path", modules("grpojax/models"), ids=lambda p: p.name)
def test_the_rooms_of_models_import_downwards(path):
    own = path.relative_to(ROOT / "grpojax" / "models").parts[0]
    if own == "__init__.py":
        return
    below = MODELS[: MODELS.index(own) + 1]
    for name in imported(path):
        if name.startswith("grpojax.models."):
            assert name.split(".")[2] in below, f"{path} imports {name} above it"


def test_users_of_sharding_see_what_is_theirs():
    """What the phases are partitioned with is in `sharding.spmd`."""
    from grpojax import sharding

    public = {name for name in dir(sharding) if not name.startswith("_")}
    # `jaxtyping` is added by the import hook of the tests.
    assert public - {"spmd", "jaxtyping"} == {
        *("BATCH", "NAMES", "DECODING", "TRAINING", "Rule", "Table"),
        *("make_mesh", "place", "shardings", "constrain", "check_prompts"),
    }
