"""The three tasks: environments of generated rows, and of rows in a file."""

import dataclasses
import itertools
import json
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import pytest

from envs import next_video, opinion, slate_opinion
from envs.slates.answers import Direction, Percent
from envs.slates.options import (
    NextVideoOptions,
    OpinionOptions,
    SlateOpinionOptions,
)
from envs.slates.origin import direction_of, read_example
from envs.slates.rows import generate
from grpojax.testing import check_env

from ...helpers import mostly_slow


TASKS = {
    "next_video": (next_video, NextVideoOptions(train_rows=8)),
    "opinion": (opinion, OpinionOptions(train_rows=8)),
    "opinion_value": (opinion, OpinionOptions(train_rows=8, mode="value")),
    "slate_opinion": (slate_opinion, SlateOpinionOptions(train_rows=8)),
}


def made(task, tokenizer, held_out: int | None = 4, horizon: int = 8, **changes: Any):
    module, options = TASKS[task]
    options = dataclasses.replace(options, **changes)
    return module.environments(options, tokenizer, horizon=horizon, held_out=held_out)


@pytest.mark.parametrize("task", mostly_slow(TASKS, fast=["slate_opinion"]))
def test_a_task_is_an_environment(task, tokenizer):
    train, test, notes = made(task, tokenizer)
    assert (train.size, test.size, notes) == (8, 4, [])
    check_env(train, key=jr.key(0))
    assert not {*train.rows["participant_id"]} & {*test.rows["participant_id"]}
    assert made(task, tokenizer, held_out=0)[1] is None
    full, _, _ = made(task, tokenizer, template="full")
    assert full.rows["answer"] == train.rows["answer"]
    with pytest.raises(ValueError, match="`evaluations.NAME.problems` says how many"):
        made(task, tokenizer, held_out=None)


def test_opinions_are_asked_once_of_every_viewer(tokenizer):
    env, _, _ = made("opinion", tokenizer)
    assert len({*env.rows["participant_id"]}) == 8
    assert env.kind == Direction() and env.rows["answer"] == env.rows["direction"]
    env, _, _ = made("opinion_value", tokenizer, strict=True)
    assert env.kind == Percent(strict=True) and env.rows["answer"] == env.rows["after"]


def test_the_control_exchanges_the_answers_of_rows_to_train_on(tokenizer):
    env, test, _ = made("next_video", tokenizer, train_rows=200)
    control, same, _ = made("next_video", tokenizer, train_rows=200, permuted=True)
    assert (control.prompts == env.prompts).all() and (
        control.answers != env.answers
    ).any()
    assert sorted(map(str, control.rows["answer"])) == sorted(
        map(str, env.rows["answer"])
    )
    assert control.rows["gold_index"] == env.rows["gold_index"]
    assert all(
        x["option"] <= n
        for x, n in zip(control.rows["answer"], control.rows["n_options"], strict=True)
    )
    assert jnp.array_equal(test.answers, same.answers)


def test_rows_of_a_file_are_those_of_the_generator(tokenizer, tmp_path):
    rows: list[Any] = [*itertools.islice(generate(0, "real"), 60)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    source: Any = {"path": str(path), "template": "full", "train_rows": None}
    train, test, notes = made("next_video", tokenizer, held_out=None, **source)
    assert train.size + test.size == 60 and notes == []
    assert not {*train.rows["participant_id"]} & {*test.rows["participant_id"]}
    by_uid = {row["uid"]: row for row in rows}
    for uid, index in zip(train.rows["uid"], train.rows["gold_index"], strict=True):
        slate = json.loads(by_uid[uid]["slate_items_json"])
        assert slate[index - 1]["id"] == by_uid[uid]["next_video_id"]
    # The same rows to evaluate on leave nobody to train on.
    with pytest.raises(ValueError, match="rows of viewers who are not held out"):
        made("next_video", tokenizer, eval_path=str(path), **source)
    few = tmp_path / "few.jsonl"
    few.write_text(json.dumps(rows[0]))
    train, test, notes = made(
        "next_video", tokenizer, None, eval_path=str(few), **source
    )
    same = [row for row in rows if row["participant_id"] == rows[0]["participant_id"]]
    assert (train.size, test.size) == (60 - len(same), 1)
    assert notes == [f"{len(same)} rows of viewers who are held out left out"]
    opinions, _, _ = made("opinion", tokenizer, held_out=4, **source)
    assert len({*opinions.rows["participant_id"]}) == opinions.size


ROW = {
    "issue": "gun_control",
    "participant_study": "study1",
    "participant_id": 7,
    "slate_items_json": [{"id": "a", "title": "A: one!"}, {"id": "b", "title": "B"}],
    "gun_index": "0.25",
    "gun_index_2": 0.25,
}


@pytest.mark.parametrize(
    ("columns", "gold"),
    [
        ({"next_video_id": "b"}, 2),
        ({"clicked_id": "b", "label": "a"}, 2),
        ({"answer": "a"}, 1),
        ({"next_video_id": "a one"}, 1),
        ({"next_video_id": "z", "next_video_title": "a ONE"}, 1),
        ({"next_video_id": "z"}, None),
        ({}, None),
    ],
)
def test_the_chosen_video_is_found_by_its_id_or_title(columns, gold):
    assert read_example({**ROW, **columns}).gold_index == gold


def test_opinions_are_on_one_scale():
    example = read_example(ROW)
    assert (example.before, example.after) == (0.25, 0.25)
    other = read_example({**ROW, "participant_study": "study2"})
    assert (other.before, other.after) == (None, None)
    with pytest.raises(ValueError, match="'gun_index' must be in .0, 1.*is 3.0"):
        read_example({**ROW, "gun_index": 3})
    with pytest.raises(ValueError, match="'slate_items_json' is no JSON"):
        read_example({**ROW, "slate_items_json": "["})
    with pytest.raises(ValueError, match="'slate_items_json' has no options"):
        read_example({**ROW, "slate_items_json": ""})
    assert direction_of(0.5, 0.52, 0.02) == "no_change"
    assert direction_of(0.5, 0.53, 0.02) == "increase"
    assert direction_of(0.5, 0.49, 0.0) == "decrease"
    assert direction_of(None, 0.5, 0.0) is None


def test_rows_that_lack_something_are_refused_or_skipped(tokenizer, tmp_path):
    path = tmp_path / "rows.jsonl"
    people = [{**ROW, "participant_id": n, "next_video_id": "b"} for n in range(30)]
    bad = {**ROW, "next_video_id": "z"}
    path.write_text("\n".join(map(json.dumps, [*people, bad])))
    source: Any = {"path": str(path), "template": "full"}
    with pytest.raises(ValueError, match="line 31: the video .* is not on its slate"):
        made("next_video", tokenizer, **source)
    _, _, notes = made("next_video", tokenizer, bad_rows="skip", **source)
    assert notes == ["1 rows that cannot be read left out"]
    # The joint task has half of an answer there.
    joint, _, _ = made("slate_opinion", tokenizer, train_rows=None, **source)
    people = dict(zip(joint.rows["participant_id"], joint.rows["answer"], strict=True))
    assert people["3"] == {"option": 2, "of": 2, "direction": "no_change"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_rows": 0}, "`data.train_rows` must be at least 1. Received 0"),
        ({"max_history": -1}, "`data.max_history` must be at least 0. Received -1"),
        ({"stop": ""}, "`data.stop` must have a character"),
        ({"path": "rows.csv"}, "`data.template: compact` shows what only generated"),
        ({"tolerance": 0.5}, "`data.tolerance` must be at least 0 and below 0.5"),
    ],
)
def test_options_out_of_range_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        OpinionOptions(**changes)
    with pytest.raises(ValueError, match=words):
        SlateOpinionOptions(**changes)
