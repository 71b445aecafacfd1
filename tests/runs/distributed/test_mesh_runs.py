"""Runs on a mesh: equal to those on one device, and their options."""

import jax
import numpy as np
import pytest

from grpojax.runs.cli import (
    evaluate as evaluating,
    generate as generating,
    main as commands,
)
from grpojax.runs.recipe import load as recipes
from grpojax.runs.recipe.schema import Recipe


pytestmark = pytest.mark.skipif(
    len(jax.devices()) < 8,
    reason="needs eight devices: XLA_FLAGS=--xla_force_host_platform_device_count=8",
)


def recipe(*assignments):
    return recipes.load(Recipe(), None, assignments)


@pytest.mark.slow
def test_answers_do_not_depend_on_the_mesh(settings, tmp_path):
    """Five problems over two shards: the last of six is dropped."""
    mesh = {"mesh__fsdp": 2, "mesh__tensor": 2}
    one, many = recipe(*settings()), recipe(*settings(**mesh))
    alone = evaluating.evaluate(one, tmp_path / "alone")
    spread = evaluating.evaluate(many, tmp_path / "spread")
    assert alone.correct.shape == spread.correct.shape == (5, 1)
    np.testing.assert_array_equal(alone.tokens, spread.tokens)
    assert alone.to_json() == spread.to_json()
    files = [
        (tmp_path / name / "predictions" / "0-sampled.jsonl").read_text().splitlines()
        for name in ("alone", "spread")
    ]
    assert files[0] == files[1]
    both = [generating.generate(x, problems=3, samples=2) for x in (one, many)]
    texts = [[[y["text"] for y in x["samples"]] for x in records] for records in both]
    assert texts[0] == texts[1] and len(texts[0]) == 3


@pytest.mark.parametrize(
    "words, message",
    [
        ("--processes 2", "Received --coordinator None --processes 2 --process None"),
        ("--coordinator a --processes 2 --process 0", "HOST:PORT"),
        ("--coordinator a:1 --processes 2 --process 2", "counted from 0"),
    ],
)
def test_incomplete_process_options_are_refused(capsys, words, message):
    assert commands.main(["train", *words.split()], {}) == 2
    assert message in capsys.readouterr().err
