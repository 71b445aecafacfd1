"""A light core: what is optional is not needed, and names its extra where it is."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from grpojax import _extras


ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def without(packages, code: str) -> subprocess.CompletedProcess:
    """Python in which these packages are not installed."""
    absent = f"import sys; sys.modules.update(dict.fromkeys({sorted(packages)!r}))\n"
    command = [sys.executable, "-c", absent + code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_every_package_is_in_its_extra():
    groups = PROJECT["optional-dependencies"]
    for package, extra in _extras.EXTRAS.items():
        named = [x.partition(">")[0].replace("-", "_") for x in groups[extra]]
        assert any(x.startswith(package) for x in named), (package, extra)
        assert not any(
            x.replace("-", "_").startswith(package) for x in PROJECT["dependencies"]
        )


def test_the_core_needs_none_of_them():
    """A train step of the shipped model's environment, traced."""
    code = """
import jax, optax, grpojax
from envs.addition import Addition
from grpojax import models, text
from importlib import resources
shipped = resources.files("grpojax") / "assets" / "gsm8k-tiny"
tokenizer, optimizer = text.load_tokenizer(shipped), optax.adamw(1e-3)
model = models.load(shipped)
step = grpojax.TrainStep(
    Addition(tokenizer), optimizer, rollout=grpojax.RolloutConfig(prompts=2, group=2)
)
state = step.init(model, key=jax.random.key(0))
print(jax.eval_shape(lambda: step(state)[1])["loss"].shape)
"""
    done = without(_extras.EXTRAS, code)
    assert (done.returncode, done.stdout) == (0, "()\n"), done.stderr


@pytest.mark.parametrize(
    ("absent", "code", "message"),
    [
        (["orbax"], "grpojax.fit", "grpojax.fit needs the package orbax"),
        (["rich"], "grpojax.runs.train", "grpojax.runs.train needs the package rich"),
        (["datasets"], "load_rows('a/b')", "The source 'a/b' needs the package datase"),
        (
            ["verifiers"],
            "load_rows('verifiers:a')",
            r"pip install 'grpojax[verifiers]'",
        ),
    ],
)
def test_what_needs_one_names_its_extra(absent, code, message):
    done = without(absent, f"import grpojax; from envs.rows import load_rows; {code}")
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and message in last and "grpojax[" in last, done.stderr


def test_the_command_names_it_in_one_line():
    code = "from grpojax.__main__ import main; sys.argv[1:] = ['train']; main()"
    done = without(["orbax"], code)
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        "grpojax: The command grpojax needs the package orbax, which is not installed. "
        "Install it with `pip install 'grpojax[runs]'`.\n"
    )


def test_a_missing_module_of_the_user_is_told_as_it_is():
    with pytest.raises(ModuleNotFoundError, match="No module named 'theirs'"):
        with _extras.named_extras("it"):
            raise ModuleNotFoundError("No module named 'theirs'", name="theirs")
