"""The site: public names are in its reference, blocks run, commands parse."""

import ast
import importlib
import importlib.util
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import optax
import pytest

from envs.addition import Addition
from envs.gsm8k import GSM8K, load_rows
from grpojax import curriculum, models, RolloutConfig, runs
from grpojax.runs.cli.main import build_parser
from grpojax.runs.recipe import build
from grpojax.runs.recipe.load import dump, load, parse
from grpojax.runs.recipe.schema import Recipe
from grpojax.text import load_tokenizer
from grpojax.types import Rewards

from .helpers import mostly_slow
from .update import make_trl


ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
REFERENCE = sorted((DOCS / "reference").glob("*.md"))
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
name_of = lambda path: path.relative_to(DOCS).as_posix()


@pytest.fixture(autouse=True)
def as_a_reader_runs_them():
    """What a reader writes follows JAX's own rules of promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def blocks(page: Path, language: str) -> list[str]:
    """Code of a page, that of its tabs included."""
    fence = re.compile(rf"^( *)```{language}\n(.*?)^\1```", re.M | re.S)
    found = [textwrap.dedent(match[2]) for match in fence.finditer(page.read_text())]
    return [text for text in found if "rollout.generate(state.policy" not in text]


# Every public name is in the reference.


def documented() -> list[str]:
    text = "".join(page.read_text() for page in REFERENCE)
    return re.findall(r"^::: (\S+)$", text, re.M)


def resolve(path: str) -> object:
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def public_modules() -> list[str]:
    """Namespaces of `grpojax`, those that they export, and modules of `envs`."""
    found = ["grpojax", "grpojax.sharding.spmd", "grpojax.text.oracle"]
    for path in (ROOT / "grpojax").iterdir():
        if not path.name.startswith("_") and (path.is_dir() or path.suffix == ".py"):
            found.append(f"grpojax.{path.stem}")
    found.remove("grpojax.assets")
    for path in (ROOT / "envs").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if not any(part.startswith("_") for part in parts):
            found.append(".".join(parts))
        elif parts[-1] == "__init__" and not any(x[0] == "_" for x in parts[:-1]):
            found.append(".".join(parts[:-1]))
    return sorted(found)


def public_names(module: str) -> set[str]:
    """What a package exports under its own name, or what a module defines."""
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found: set[str] = set()
    nodes = list(ast.parse(path.read_text()).body)
    for node in nodes:
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                nodes.extend(node.body)
            case ast.ImportFrom():
                found |= {x.name for x in node.names if x.name == x.asname}
            case ast.FunctionDef() | ast.ClassDef() if path.name != "__init__.py":
                found.add(node.name)
            case (
                ast.Assign(targets=[ast.Name(id=name)])
                | ast.AnnAssign(target=ast.Name(id=name))
            ) if path.name != "__init__.py":
                found.add(name)
    return {name for name in found if not name.startswith("_")}


def test_every_public_name_is_in_the_reference():
    paths = documented()
    assert len(paths) == len(set(paths)), "a name is there twice"
    objects = {id(resolve(path)) for path in paths}
    missing, seen = [], set(paths)
    for module in public_modules():
        for name in public_names(module):
            path = f"{module}.{name}"
            found = resolve(path)
            if isinstance(found, ModuleType) or path in seen or id(found) in objects:
                continue
            missing.append(path)
    assert not missing
    assert len(paths) > 400


def test_the_site_lists_every_page():
    text = (ROOT / "mkdocs.yml").read_text()
    listed = set(re.findall(r"[:-] (\S+\.md)$", text, re.M))
    notebooks = {name_of(path.with_suffix(".md")) for path in NOTEBOOKS}
    assert listed == {name_of(page) for page in PAGES} | notebooks


@pytest.mark.slow
def test_the_site_is_built_strictly(tmp_path):
    pytest.importorskip("mkdocs", reason="the extra `docs` builds the site")
    command = sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir"
    built = subprocess.run([*command, tmp_path], capture_output=True, cwd=ROOT)
    assert built.returncode == 0, built.stderr.decode()
    page = (tmp_path / "reference" / "advantage" / "index.html").read_text()
    assert 'id="grpojax.advantage.GroupNormalized"' in page


# Links, commands and recipes.


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda x: x.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
        path = (page.parent / target).resolve()
        assert path.exists() or path.with_suffix(".ipynb").exists(), target


def commands(text: str) -> list[list[str]]:
    """Words of the lines that call `grpojax`; capitals stand for the reader's."""
    lines = [line.split(" #")[0] for line in text.splitlines()]
    found = [x.strip() for x in lines if x.strip().startswith("grpojax ")]
    return [re.findall(r"'[^']*'|\"[^\"]*\"|\S+", line)[1:] for line in found]


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda x: x.name)
def test_commands_parse(page):
    for block in blocks(page, "sh"):
        for words in commands(block.replace("\\\n", " ")):
            build_parser().parse_args([word.strip("'\"") for word in words])


NEW = ["peers.md", "trl.md", "start.md", "phases.md", "install.md", "faq.md"]
NEW += [f"tutorials/{x}.md" for x in ("reward", "environment", "data", "tool")]
NEW += [f"tutorials/{x}.md" for x in ("devices", "debugging")]
FILES = re.compile(r"# ((?:my_)?\w+\.(?:py|yaml))\n")


def run_page(page: Path, folder: Path) -> dict:
    """The names that a page's Python blocks leave; files that it shows are written."""
    for number, block in enumerate(blocks(page, "yaml")):
        named = FILES.match(block)
        default = "capitals.yaml" if page.stem == "data" else f"{number}.yaml"
        (folder / (named[1] if named else default)).write_text(block)
    for text in blocks(page, "text"):
        if text.startswith("prompt_text,label"):
            (folder / "problems.csv").write_text(text)
    namespace: dict = {"__name__": page.stem}
    for block in blocks(page, "python"):
        named = FILES.match(block)
        if named is None:
            exec(compile(block, page.name, "exec"), namespace)
        else:
            (folder / named[1]).write_text(block)
    return namespace


@pytest.fixture(autouse=True)
def modules_of_pages_are_forgotten():
    """Pages of several tests have files of one name."""
    yield
    for name in [x for x in sys.modules if x.startswith("my_")]:
        del sys.modules[name]


BRIEF = "def brief(completions):\n    return [0.0 for _ in completions]\n"
FAST = [f"tutorials/{x}.md" for x in ("data", "tool")]
FAST += ["peers.md", "trl.md", "start.md", "phases.md"]


@pytest.mark.parametrize(
    "name", mostly_slow([x for x in NEW if "devices" not in x], FAST)
)
def test_a_page_runs_in_order(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("my_rewards", "my_tools"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    (tmp_path / "my_rewards.py").write_text(BRIEF)
    run_page(DOCS / name, tmp_path)
    for path in tmp_path.glob("*.yaml"):
        build.check(load(Recipe(), path))


@pytest.mark.slow
def test_the_page_on_curricula_runs_in_order():
    path = ROOT / "grpojax" / "assets" / "gsm8k-tiny"
    tokenizer = load_tokenizer(path)
    rows, _ = load_rows("word-problems", split="train", count=64)
    words = GSM8K(rows, tokenizer, max_completion_length=8)
    sums = Addition(tokenizer)
    given: dict = dict(
        curriculum=curriculum.ShuffledEpochs(),
        env=words,
        key=jax.random.key(0),
        step=jax.numpy.array(0),
        count=4,
        rewards=Rewards.of(np.ones((4, 2), np.float32), name="correct"),
        optimizer=optax.sgd(0.1),
        rollout=RolloutConfig(prompts=4, group=2),
        policy=models.load(path, dtype="float32"),
        sums=sums,
        words=words,
        held_out={"sums": sums, "words": words},
        runs=runs,
    )
    page = DOCS / "curriculum.md"
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), given)
    assert given["result"].metrics["accuracy/sums"].n == 50
    keys, mixture = blocks(page, "yaml")
    for text in [*keys.splitlines()[:2], mixture]:
        build.check(parse(Recipe(), text))


def test_no_block_is_left_out():
    """A page with Python or YAML is one of these pages, or named in another test."""
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for page in [*DOCS.glob("*.md"), *(DOCS / "tutorials").glob("*.md")]:
        if blocks(page, "python") or blocks(page, "yaml"):
            assert f'"{page.name}"' in tests or name_of(page) in NEW, page.name


@pytest.mark.slow
def test_the_page_on_devices_runs_on_four(tmp_path):
    page = DOCS / "tutorials" / "devices.md"
    (tmp_path / "page.py").write_text("\n".join(blocks(page, "python")))
    four = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", **four}
    command = [sys.executable, "page.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda x: x.stem)
def test_a_notebook_runs_and_says_what_it_was_saved_with(path, tmp_path, monkeypatch):
    """Its cells, in order; what they print is what the file shows."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "notebook"}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), path.name, "exec"), namespace)


# Settings of the peers.


def settings_of(page: str) -> list[list[str]]:
    """The `key=value`s in code, in the last cells of a page's tables."""
    found = []
    for line in (DOCS / page).read_text().splitlines():
        cells = [x.strip() for x in line.strip("|").split(" | ")]
        for code in re.findall(r"`([^`]*=[^`]*)`", cells[-1]) if "|" in line else []:
            words = re.findall(r"'[^']*'|\S+", code)
            pairs = [word.strip("'") for word in words]
            if all(re.match(r"[a-z_]+\.[\w.]+=", pair) for pair in pairs):
                found.append(pairs)
    return found


@pytest.mark.parametrize("page, least", [("peers.md", 75), ("trl.md", 45)])
def test_settings_of_peers_are_settings_here(page, least, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
    (tmp_path / "my_rewards.py").write_text(BRIEF)
    found = settings_of(page)
    assert len(found) >= least
    for pairs in found:
        recipe = load(Recipe(), None, pairs)
        build.check(recipe)
        assert parse(Recipe(), dump(recipe)) == recipe, pairs


def test_every_setting_of_trl_is_on_its_page():
    page = (DOCS / "trl.md").read_text()
    with np.load(make_trl.FIXTURE) as fixture:
        names = [str(name) for name in fixture["settings"]]
    assert len(names) > 60
    assert not [name for name in names if f"`{name}" not in page]
