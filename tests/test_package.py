"""What is released: a typed wheel with its assets, for the Pythons that it names."""

import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml


ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

USERS = '''
"""A user's own reward, as a type checker sees it."""

import jax
import jax.numpy as jnp
import optax

import grpojax
from grpojax import reward


def brief(trajectory: grpojax.Trajectory) -> grpojax.Rewards:
    judged = reward.WeightedSum({"correct": 1.0})(trajectory)
    reveal_type(judged.total)
    return judged


config = grpojax.RolloutConfig(prompts=4, group=2)
reveal_type(config.prompts)
config.promts
grpojax.RolloutConfig(prompts="four", group=2)
'''


def run(*command, **options) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_workflows_name_the_pythons_that_are_supported():
    classifiers = " ".join(PROJECT["classifiers"])
    supported = re.findall(r"Python :: (3\.\d+)", classifiers)
    found = {
        path.stem: yaml.safe_load(path.read_text())
        for path in (ROOT / ".github" / "workflows").glob("*.yml")
    }
    matrix = found["tests"]["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == supported
    oldest = next(x for x in PROJECT["dependencies"] if x.startswith("jax>"))
    assert f"jax=={oldest.removeprefix('jax>=')}.*" in matrix["jax"]
    assert PROJECT["requires-python"].startswith(f">={supported[0]}")
    for name, workflow in found.items():
        for job in workflow["jobs"].values():
            assert job["steps"] and job["runs-on"], name
            assert all({"uses", "run"} & step.keys() for step in job["steps"]), name
    checks = [step.get("run", "") for step in found["tests"]["jobs"]["tests"]["steps"]]
    ci = (ROOT / ".ci" / "run").read_text() if (ROOT / ".ci").is_dir() else ""
    for command in ("ruff check .", "pyright", "python -m pytest"):
        assert any(command in x for x in checks) and (not ci or command in ci)


@pytest.mark.slow
def test_the_wheel_is_what_a_user_needs(tmp_path):
    """Built from the source distribution; needs a package index."""
    run(sys.executable, "-m", "venv", tmp_path / "build", check=True)
    python = tmp_path / "build" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "build", check=True)
    built = run(python, "-m", "build", "--outdir", tmp_path / "dist", ROOT)
    assert built.returncode == 0, built.stderr
    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert sdist.stem.removesuffix(".tar") in wheel.stem
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {"grpojax/py.typed", "envs/py.typed"} <= inside
    assert any(name.startswith("grpojax/assets/gsm8k-tiny/model") for name in inside)
    assert not any(name.split("/")[0] in ("tests", "docs", ".ci") for name in inside)

    venv.create(tmp_path / "user", with_pip=True)
    user, outside = tmp_path / "user" / "bin", {"cwd": tmp_path, "env": {}}
    (site,) = (tmp_path / "user").glob("lib/python*/site-packages")
    # The dependencies are those of the tests, without their editable installs.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    install = "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall"
    run(user / "python", *install, wheel, check=True, cwd=tmp_path)
    helped = run(user / "grpojax", "--help", **outside)
    assert helped.returncode == 0 and "train" in helped.stdout, helped.stderr
    where = "import grpojax, envs; print(grpojax.__file__, envs.__file__)"
    found = run(user / "python", "-c", where, check=True, **outside).stdout
    assert found.count(str(tmp_path / "user")) == 2

    (tmp_path / "mine.py").write_text(USERS)
    checker = sys.executable, "-m", "pyright", "--pythonpath", user / "python"
    checked = run(*checker, tmp_path / "mine.py", cwd=tmp_path).stdout
    assert 'Type of "config.prompts" is "int"' in checked, checked
    assert 'Type of "judged.total"' in checked and "Unknown" not in checked
    assert 'Cannot access attribute "promts"' in checked
    assert '"Literal[\'four\']" is not assignable to "int"' in checked
    assert "2 errors" in checked
