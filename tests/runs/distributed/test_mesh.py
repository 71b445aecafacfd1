"""A recipe's section `mesh`, and its processes: which devices compute."""

import socket

import jax
import numpy as np
import pytest

from grpojax.runs.cli import (
    evaluate as evaluating,
    generate as generating,
    main as commands,
)
from grpojax.runs.distributed import mesh as placement, processes
from grpojax.runs.recipe import load as recipes
from grpojax.runs.recipe.schema import Recipe


pytestmark = pytest.mark.skipif(
    len(jax.devices()) < 8,
    reason="needs eight devices: XLA_FLAGS=--xla_force_host_platform_device_count=8",
)


def recipe(*assignments):
    return recipes.load(Recipe(), None, assignments)


def test_one_device_is_the_default_and_what_is_unused_is_said():
    assert placement.build_mesh(**vars(recipe().mesh)) is None
    assert "the first of 8; mesh.fsdp=-1 takes all" in placement.describe(None)


@pytest.mark.parametrize(
    "sizes, shape",
    [
        (["mesh.fsdp=-1"], (1, 8, 1)),
        (["mesh.data=2", "mesh.fsdp=-1", "mesh.tensor=2"], (2, 2, 2)),
        (["mesh.fsdp=2", "mesh.tensor=2"], (1, 2, 2)),
    ],
)
def test_meshes(sizes, shape):
    mesh = placement.build_mesh(**vars(recipe(*sizes).mesh))
    assert mesh is not None and tuple(mesh.shape.values()) == shape
    assert mesh.devices.flat[0] == jax.devices()[0]
    assert placement.describe(mesh).startswith(f"{mesh.size} x ")


@pytest.mark.parametrize(
    "sizes, said",
    [
        (["mesh.data=16"], "multiply to the number of devices"),
        (["mesh.data=3", "mesh.fsdp=-1"], "multiply to the number of devices"),
        (["mesh.data=-1", "mesh.fsdp=-1"], "must be positive, but for one"),
        (["mesh.tensor=0"], "must be positive, but for one"),
    ],
)
def test_what_there_is_not_is_refused(sizes, said):
    with pytest.raises(ValueError, match=said):
        placement.build_mesh(**vars(recipe(*sizes).mesh))


@pytest.mark.slow
def test_answers_do_not_depend_on_the_mesh(settings, tmp_path):
    """Five problems over two parts: the last of six is thrown away."""
    mesh = {"mesh__fsdp": 2, "mesh__tensor": 2}
    one, many = recipe(*settings()), recipe(*settings(**mesh))
    alone = evaluating.evaluate(one, tmp_path / "alone")
    spread = evaluating.evaluate(many, tmp_path / "spread")
    assert alone.right.shape == spread.right.shape == (5, 1)
    np.testing.assert_array_equal(alone.tokens, spread.tokens)
    assert alone.numbers() == spread.numbers()
    files = [
        (tmp_path / name / "predictions" / "0-sampled.jsonl").read_text().splitlines()
        for name in ("alone", "spread")
    ]
    assert files[0] == files[1]
    said = [generating.generate(x, problems=3, samples=2) for x in (one, many)]
    texts = [[[y["text"] for y in x["samples"]] for x in records] for records in said]
    assert texts[0] == texts[1] and len(texts[0]) == 3


@pytest.mark.parametrize(
    "words, said",
    [
        ("--processes 2", "Received --coordinator None --processes 2 --process None"),
        ("--coordinator a --processes 2 --process 0", "HOST:PORT"),
        ("--coordinator a:1 --processes 2 --process 2", "counted from 0"),
    ],
)
def test_half_of_what_a_process_is_told_is_refused(capsys, words, said):
    assert commands.main(["train", *words.split()], {}) == 2
    assert said in capsys.readouterr().err


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(("", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match="cannot be had .*: choose another"):
            with processes.distributed(
                coordinator=place, num_processes=2, process_id=0
            ):
                pass
