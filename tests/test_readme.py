"""The README's program runs as it is written."""

import importlib.util
import json
import re
import subprocess
import sys
import types
from importlib import resources
from pathlib import Path
from typing import Any, cast

import jax
import optax
import pytest
import yaml

from grpojax import fit, runs
from grpojax.runs.recipe import build
from grpojax.runs.recipe.load import dump, load, parse
from grpojax.runs.recipe.schema import Recipe
from grpojax.text import load_tokenizer

from .helpers import count_env, mostly_slow, transformer


ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()


@pytest.fixture(autouse=True)
def as_a_reader_runs_them():
    """What a reader writes follows JAX's own rules of promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def blocks() -> list[str]:
    """The README's Python blocks."""
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def recipe_with(key: str, page: str = README) -> str:
    found = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    return next(text for text in found if key in text)


@pytest.mark.parametrize("trained", mostly_slow([False, True], [False]))
def test_rows_and_a_reward_of_ones_own_take_few_lines(tmp_path, monkeypatch, trained):
    recipe, function = recipe_with("task: questions"), blocks()[0]
    assert len(recipe.splitlines()) <= 12 and len(function.splitlines()) <= 6
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("my_rewards")
    exec(compile(function, "my_rewards.py", "exec"), vars(module))
    monkeypatch.setitem(sys.modules, "my_rewards", module)
    (tmp_path / "mine.yaml").write_text(recipe)
    rows = [f"{n} pens and {n} pens?,{2 * n}" for n in range(20)]
    (tmp_path / "problems.csv").write_text("\n".join(["prompt_text,label", *rows]))
    small = ["run.steps=1", "rollout.prompts=2", "rollout.group=2"]
    made = build.build(load(Recipe(), tmp_path / "mine.yaml", small))
    assert made["step"].env.size == 18 and made["evaluation"]["held_out"].env.size == 2
    if not trained:
        return
    fit(**made, out=tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "metrics.jsonl").read_text())
    assert metrics["rewards/brief/mean"] == 1.0 and "rewards/correct/mean" in metrics


@pytest.mark.slow
def test_the_page_on_asynchronous_training_runs_in_order():
    page = (DOCS / "asynchronous.md").read_text()
    names = {
        "env": count_env(),
        "policy": transformer(),
        "optimizer": optax.adam(1e-3),
        "key": jax.random.key(0),
    }
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "asynchronous.md", "exec"), names)
    recipe = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0]
    assert parse(Recipe(), recipe).actors.data == 1


def test_the_page_on_data_runs_in_order(tmp_path, monkeypatch):
    page = (DOCS / "data.md").read_text()
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "data.md", "exec"), {"__name__": "data"})
    found = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    first, *others = [parse(Recipe(), text) for text in found]
    assert (first.data.options.held_out, first.data.options.shuffle) == (0.1, 7)
    packages = "math_verify", "reasoning_gym", "verifiers"
    for package, recipe in zip(packages, others, strict=True):
        if importlib.util.find_spec(package) is not None:
            build.check(recipe)


def test_python_blocks_run_in_order(capsys, tmp_path, monkeypatch):
    namespace: dict[str, object] = {"__name__": "readme"}
    monkeypatch.chdir(tmp_path)
    for block in blocks():
        exec(compile(block, "README.md", "exec"), namespace)
    assert len(re.findall(r"reward \d\.\d{3}, length", capsys.readouterr().out)) == 3
    run = tmp_path / "out" / "brief"
    assert json.loads((run / "summary.json").read_text())["complete"]
    assert {"report.md", "report.html", "model"} <= {x.name for x in run.iterdir()}


def test_a_run_of_ones_own_parts_takes_fewer_than_fifteen_lines():
    block = next(b for b in blocks() if "grpojax.fit(" in b)
    assert len([line for line in block.splitlines() if line.strip()]) < 15


def test_the_recipe_names_parts_that_exist():
    values = yaml.safe_load(
        recipe_with("algorithm:", (DOCS / "commands.md").read_text())
    )
    values["reward"]["terms"] = values["reward"]["terms"][:1]  # Without the reader's.
    recipe = parse(Recipe(), yaml.safe_dump(values))
    build.check(recipe)
    assert parse(Recipe(), dump(recipe)) == recipe


def test_the_page_on_adapters_runs_in_order(tmp_path, monkeypatch):
    page = DOCS / "lora.md"
    namespace: dict[str, object] = {"__name__": "lora"}
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(block, page.name, "exec"), namespace)
    written = {path.parent.name for path in tmp_path.rglob("*.safetensors")}
    assert written == {"adapter", "model"}


@pytest.mark.slow
def test_the_page_on_runs_runs_in_order(tmp_path, monkeypatch):
    page = DOCS / "runs.md"
    namespace: dict[str, object] = {"__name__": "runs"}
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(block, page.name, "exec"), namespace)
    run = tmp_path / "out" / "digits"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["complete"] and summary["steps"] == 30
    assert (run / "report.md").exists()
    # A tracker that starts over is given every step.
    assert len((run / "tracking" / "rewards.tsv").read_text().splitlines()) == 30


def test_the_page_on_replay_runs(capsys):
    page = (DOCS / "replay.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    path = resources.files("grpojax") / "assets" / "gsm8k-tiny"
    exec(compile(block, "replay.md", "exec"), {"path": path})
    assert capsys.readouterr().out.count("[") > 4  # Norms of rows.


def test_the_page_on_estimators_runs():
    page = (DOCS / "estimators.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(block, "estimators.md", "exec"), {})


def test_the_page_on_turns_runs_in_order(capsys):
    page = (DOCS / "turns.md").read_text()
    namespace: dict[str, object] = {"__name__": "turns"}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "turns.md", "exec"), namespace)
    assert "[user] No. Again:" in capsys.readouterr().out


@pytest.mark.slow
def test_the_page_on_slates_runs_in_order(tmp_path, monkeypatch, capsys):
    page = (DOCS / "slates-and-opinions.md").read_text()
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "slates"}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "slates-and-opinions.md", "exec"), namespace)
    (shown,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    form = re.compile(
        r"^S[+-]\d A:\d{6} C:\w H:\S+ B:\d+ K:\d \|.* QO\?$", re.MULTILINE
    )
    assert form.match(shown) and form.search(capsys.readouterr().out)
    evaluation = runs.Evaluation(namespace["test"], measures=namespace["ByLevel"]())
    found = evaluation.run(namespace["policy"])
    assert found.metrics["answers"].n == 8


def test_the_page_on_experts_runs_in_order(tmp_path, monkeypatch):
    page = (DOCS / "experts.md").read_text()
    namespace: dict[str, object] = {"__name__": "experts"}
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "experts.md", "exec"), namespace)
    assert (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "name",
    [
        *("algorithms.md", "runs.md", "turns.md", "experts.md"),
        "slates-and-opinions.md",
    ],
)
def test_the_recipe_of_a_page_names_parts_that_exist(name):
    page = (DOCS / name).read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    build.check(parse(Recipe(), text))


def test_the_page_on_rewards_runs_and_its_terms_are_accepted(tmp_path, monkeypatch):
    page = (DOCS / "rewards.md").read_text()
    first, *python = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_rewards.py").write_text(first)
    monkeypatch.syspath_prepend(tmp_path)
    shipped = resources.files("grpojax") / "assets" / "gsm8k-tiny"
    namespace: dict[str, object] = {"tokenizer": load_tokenizer(shipped)}
    for block in python:
        exec(compile(block, "rewards.md", "exec"), namespace)
    missing = importlib.util.find_spec("math_verify") is None
    for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        if block.startswith("    - "):
            block = f"reward:\n  terms:\n{block}"
        if missing and "math_verify" in block:
            continue  # The optional package is not installed.
        path = tmp_path / "recipe.yaml"
        path.write_text(block)
        build.check(load(Recipe(), path, [], {"JUDGE_KEY": "x"}))


@pytest.mark.slow
def test_the_page_on_environments_runs_in_order(tmp_path, monkeypatch):
    page = (DOCS / "environments.md").read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    namespace: dict[str, object] = {"__name__": "environments"}
    python = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(python[0].splitlines()) <= 10  # A tool.
    for block in python:
        named = re.match(r"# (my_\w+\.py)\n", block)
        if named is not None:
            (tmp_path / named[1]).write_text(block)
        else:
            exec(compile(block, "environments.md", "exec"), namespace)
    trajectory, state = (cast(Any, namespace[x]) for x in ("trajectory", "state"))
    assert not trajectory.sampled.all() and int(state.version) == 1
    for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        recipe = parse(Recipe(), block)
        build.check(recipe)
        assert parse(Recipe(), dump(recipe)) == recipe


def test_the_page_on_teachers_runs_in_order_and_its_recipes_are_accepted():
    page = (DOCS / "teachers.md").read_text()
    namespace: dict[str, Any] = {"__name__": "teachers"}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "teachers.md", "exec"), namespace)
    assert int(namespace["state"].version) == 0  # The last one has taken no step.
    jax.eval_shape(namespace["step"], namespace["state"])
    for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        build.check(parse(Recipe(), block))


def test_an_environment_takes_fewer_than_thirty_lines():
    page = (DOCS / "tutorials" / "environment.md").read_text()
    body = page[page.index("class Double") : page.index("path = files(")]
    assert len(body.strip().splitlines()) < 30


def test_the_first_result_is_on_the_first_screen():
    """What it is, how to run it and what comes out, in 24 lines of 88 columns."""
    lines = README.splitlines()
    shown = next(i for i, line in enumerate(lines) if line.startswith("!["))
    assert shown < 24 and max(map(len, lines[:shown])) <= 88


def test_import_is_cheap():
    """`import grpojax` brings no tokenizer, data or plotting library with it."""
    code = "import grpojax, sys; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = {"datasets", "tokenizers", "sentencepiece", "matplotlib", "jinja2", "rich"}
    heavy |= {"pandas", "pyarrow", "torch", "transformers", "yaml"}
    assert not heavy & {name.split(".")[0] for name in out.stdout.split()}
