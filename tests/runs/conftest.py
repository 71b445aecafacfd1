import shutil
import subprocess
from importlib import resources
from pathlib import Path

import jax.random as jr
import pytest

from grpojax import models, text


SHIPPED = resources.files("grpojax") / "assets" / "gsm8k-tiny"


def write_model(path: Path, vocab_size: int) -> Path:
    """A random model that is smaller still, with the tokenizer that is shipped."""
    config = models.TransformerConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        tied=True,
    )
    models.save(models.Transformer(config, key=jr.key(0)), path)
    text.load_tokenizer(SHIPPED).save(path)
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    vocab_size = text.load_tokenizer(SHIPPED).vocab_size
    return write_model(tmp_path_factory.mktemp("model"), vocab_size)


@pytest.fixture(scope="session")
def small_vocabulary(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), vocab_size=100)


@pytest.fixture(scope="session")
def settings(model):
    """Assignments of a run that takes seconds: `settings(run__steps=0)`."""
    defaults = {
        "model.path": model,
        "data.train_rows": 20,
        "run.eval_problems": 5,
        "run.steps": 2,
        "rollout.prompts": 2,
        "rollout.group": 4,
        "rollout.max_new_tokens": 6,
    }

    def build(**changes) -> list[str]:
        dotted = {key.replace("__", "."): value for key, value in changes.items()}
        return [f"{key}={value}" for key, value in {**defaults, **dotted}.items()]

    return build


@pytest.fixture(scope="session")
def arguments(settings):
    """The same for a command line."""

    def build(**changes) -> list[str]:
        return [word for pair in settings(**changes) for word in ("--set", pair)]

    return build


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for 600 kB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", path]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("a small disk can only be mounted by an administrator")
    yield path
    subprocess.run(["umount", path], check=True)
