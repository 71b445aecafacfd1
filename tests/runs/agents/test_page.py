"""The page about agents, and the example that it names."""

import re
from pathlib import Path

import pytest


pytest.importorskip("uvicorn", reason="needs the extra `serve`")
pytest.importorskip("openai", reason="openai is not installed")

import grpojax  # noqa: E402
from grpojax.runs.recipe import build  # noqa: E402
from grpojax.runs.recipe.load import dump, load, parse  # noqa: E402
from grpojax.runs.recipe.schema import Recipe  # noqa: E402


ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "agents.md").read_text()
RECIPE = ROOT / "examples" / "recipes" / "agent-tiny.yaml"
SMALL = (
    *("run.steps=1", "rollout.prompts=2", "rollout.group=2", "rollout.slots=4"),
    *("evaluations.held_out.problems=2", "evaluations.held_out.at_end=false"),
)


def test_the_page_on_agents_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    agent, *python = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "my_agent.py").write_text(agent)
    names = {"__name__": "agents"}
    for block in python:
        exec(compile(block, "agents.md", "exec"), names)
    assert names["env"].size == 64
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    recipe = parse(Recipe(), text)
    build.check(recipe)
    assert parse(Recipe(), dump(recipe)) == recipe


def test_a_recipe_names_one_agent():
    recipe = lambda *given: parse(Recipe(), "\n  ".join(["environment:", *given]))
    with pytest.raises(ValueError, match="leave all but one"):
        recipe("agent: examples.agent:solve", "tools: [examples.agent:solve]")
    with pytest.raises(ValueError, match="a function of a row and a base URL"):
        build.check(recipe("agent: examples.agent:CALCULATE"))
    with pytest.raises(ValueError, match=r"environment.agent.kind` must be an argum"):
        build.check(recipe("agent: {name: examples.agent:solve, kind: 3}"))


def test_the_example_knows_the_client_alone():
    text = (ROOT / "examples" / "agent.py").read_text()
    code = text[text.rindex('"""') :]
    assert "grpojax" not in code and len(code.strip().splitlines()) <= 36


@pytest.mark.slow
def test_the_example_trains(tmp_path):
    made = build.build(load(Recipe(), RECIPE, [*SMALL, "run.compile_cache=false"]))
    grpojax.fit(**made, out=tmp_path / "out")
    assert '"num_turns/mean"' in (tmp_path / "out" / "metrics.jsonl").read_text()
