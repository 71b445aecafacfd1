import itertools
import json
import os
import shutil
import time

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st

import grpojax as gx
from grpojax import update
from grpojax.runs.checkpoint.checkpoints import Checkpoints
from grpojax.runs.checkpoint.files import saved_config

from ...helpers import leaves, transformer


OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
CONFIG = "run:\n  steps: 3\n"


def state(seed=0, family="llama", reference=True, optimizer=OPTIMIZER, dtype=None):
    policy = transformer(family, seed)
    if dtype is not None:
        policy = jax.tree.map(
            lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, policy
        )
    other = transformer(family, seed + 1) if reference else None
    return gx.init(policy, optimizer=optimizer, reference=other, key=jr.key(seed))


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 1, 2 and 3."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep_last=None)
    for step in (1, 2, 3):
        checkpoints.save(step, state(step), config=CONFIG, metadata={"at": step})
    checkpoints.wait()
    return checkpoints, tmp_path / "checkpoints"


def test_what_is_restored_is_what_was_saved(saved):
    checkpoints, _ = saved
    restored = checkpoints.restore(state(9))
    chex.assert_trees_all_equal(restored.state, state(3))
    assert not eqx.tree_equal(state(9), state(3))
    assert jax.tree.structure(restored.state) == jax.tree.structure(state(9))
    pairs = zip(leaves(restored.state), leaves(state(3)), strict=True)
    assert all(jax.typeof(x) == jax.typeof(y) for x, y in pairs)
    assert (restored.step, restored.config, restored.metadata, restored.problems) == (
        3,
        CONFIG,
        {"at": 3},
        (),
    )
    assert checkpoints.restore(state(9), max_step=2).step == 2


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_every_dtype_and_kind_of_key(tmp_path, dtype, impl):
    before = state(1, "qwen2", reference=False, optimizer=optax.sgd(1.0), dtype=dtype)
    key = jr.key(5, impl=impl)
    before = eqx.tree_at(lambda s: s.key, before, key)
    like = eqx.tree_at(
        lambda s: (s.policy.embedding, s.key),
        before,
        (jnp.zeros_like(before.policy.embedding), jr.key(6, impl=impl)),
    )
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, before, config="")
        after = checkpoints.restore(like).state
    chex.assert_trees_all_equal(after, before)
    assert after.key.dtype == key.dtype
    assert after.reference is None


def test_what_is_not_finite_and_what_is_empty(tmp_path):
    odd = jnp.array([jnp.nan, -jnp.nan, jnp.inf, -0.0, 1e-42])
    extra = {"odd": odd, "none": None, "empty": jnp.zeros((0, 3)), "host": np.arange(3)}
    before = eqx.tree_at(lambda s: s.opt_state, state(), extra)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, before, config="")
        after = checkpoints.restore(before).state.opt_state
    assert np.asarray(after["odd"]).tobytes() == np.asarray(odd).tobytes()
    assert after["none"] is None
    assert after["empty"].shape == (0, 3)
    assert isinstance(after["host"], np.ndarray) and after["host"].tolist() == [0, 1, 2]


def test_memory_that_is_donated_while_a_checkpoint_is_written(tmp_path):
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    weights = jnp.zeros((512, 1024))
    like = eqx.tree_at(lambda s: s.opt_state, state(), weights)
    with Checkpoints(tmp_path, keep_last=None) as checkpoints:
        for number in range(5):
            now = eqx.tree_at(lambda s: s.opt_state, like, weights)
            checkpoints.save(number, now, config="")
            for _ in range(3):
                weights = step(weights)
        for number in range(5):
            found = checkpoints.restore(
                state_with(like), max_step=number
            ).state.opt_state
            assert bool(jnp.all(found == 3 * number))


def state_with(like):
    return eqx.tree_at(lambda s: s.opt_state, like, jnp.zeros((512, 1024)))


def test_the_last_and_the_best_are_kept(tmp_path):
    scores = [0.5, 0.9, None, 0.7, float("nan"), 0.1]
    with Checkpoints(tmp_path, keep_last=2, keep_best=2) as checkpoints:
        for step, score in enumerate(scores, 1):
            checkpoints.save(step, state(), config="", score=score)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4, 5, 6]
    assert sorted(os.listdir(tmp_path)) == ["2", "4", "5", "6"]


@pytest.mark.parametrize("keep_last, keep_best", [(0, 1), (1, -1)])
def test_nothing_to_go_on_from_is_refused(tmp_path, keep_last, keep_best):
    with pytest.raises(ValueError, match="`Checkpoints.keep_.*` must be at least"):
        Checkpoints(tmp_path, keep_last=keep_last, keep_best=keep_best)


def test_a_good_checkpoint_is_left_and_a_bad_one_replaced(saved):
    checkpoints, path = saved
    before = os.stat(path / "3" / "manifest.json").st_mtime_ns
    checkpoints.save(3, state(3), config=CONFIG)
    checkpoints.wait()
    assert os.stat(path / "3" / "manifest.json").st_mtime_ns == before
    (path / "3" / "recipe.yaml").write_text("")
    assert checkpoints.restore(state()).step == 2
    checkpoints.save(3, state(3), config=CONFIG)
    chex.assert_trees_all_equal(checkpoints.restore(state()).state, state(3))
    assert sorted(os.listdir(path)) == ["1", "2", "3"]


def files(path):
    return sorted(x for x in path.rglob("*") if x.is_file())


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_damage_is_found_and_the_one_before_is_used(tmp_path_factory, data):
    root = tmp_path_factory.getbasetemp() / "damage"
    if not root.exists():
        with Checkpoints(root / "good", keep_last=None) as checkpoints:
            checkpoints.save(1, state(1), config=CONFIG, files={"m": b"1\n"})
            checkpoints.save(2, state(2), config=CONFIG, files={"m": b"1\n2\n"})
    shutil.rmtree(root / "bad", ignore_errors=True)
    shutil.copytree(root / "good", root / "bad")
    hit = data.draw(st.sampled_from(files(root / "bad" / "2")))
    content = bytearray(hit.read_bytes())
    kind = data.draw(st.sampled_from(["flip", "truncate", "delete", "append"]))
    if kind == "delete":
        hit.unlink()
    elif kind == "append":
        hit.write_bytes(content + b"x")
    elif content:
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
        hit.write_bytes(content if kind == "flip" else content[:place])
    restored = Checkpoints(root / "bad").restore(state(9))
    if restored.step == 2:
        # A manifest that says the same in other white space is none the worse.
        assert hit.name == "manifest.json" or not content
        chex.assert_trees_all_equal(restored.state, state(2))
    else:
        chex.assert_trees_all_equal(restored.state, state(1))
        assert restored.files == {"m": b"1\n"}
        (problem,) = restored.problems
        assert problem.startswith("The checkpoint of step 2 cannot be used: its ")
        # One that lies about another file is believed to have the right name of it.
        assert hit.name == "manifest.json" or hit.name in problem


def test_no_good_one_at_all(saved):
    checkpoints, path = saved
    shutil.rmtree(path / "1" / "state")
    (path / "2" / "contents.json").write_text("{}")
    (path / "3" / "manifest.json").unlink()
    with pytest.raises(OSError, match="None of the checkpoints") as raised:
        checkpoints.restore(state())
    text = str(raised.value)
    assert "step 1 cannot be used: its file state/" in text
    assert "step 2 cannot be used: its file contents.json is not as it was" in text
    assert "step 3 cannot be used: its manifest.json cannot be read" in text


def test_none_at_all(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds none that is complete"):
        Checkpoints(tmp_path / "nothing").restore(state())
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    "other, leaf, said",
    [
        (lambda: state(family="qwen3"), "policy/layers", r"\[2,32,32\].*\[2,32,64\]"),
        (lambda: state(dtype=jnp.bfloat16), "policy/", r"float32\[.*bfloat16\["),
        (lambda: state(reference=False), "reference/", r"float32\[.*missing"),
        (lambda: state(optimizer=optax.sgd(1.0)), "opt_state/", r"\[.*missing"),
    ],
    ids=["model", "dtype", "reference", "optimizer"],
)
def test_the_wrong_model_is_named_and_nothing_older_is_tried(saved, other, leaf, said):
    checkpoints, _ = saved
    pattern = f"In that of step 3, `{leaf}[^`]*` is .*{said}.* wrong model"
    with pytest.raises(ValueError, match=pattern):
        checkpoints.restore(other())


def test_what_an_interrupted_save_left_is_no_checkpoint(saved):
    checkpoints, path = saved
    shutil.copytree(path / "3", path / "4.unfinished")
    (path / "2").rename(path / "2.discarded")
    assert checkpoints.steps() == [1, 3]
    assert checkpoints.restore(state()).problems == ()
    checkpoints.save(5, state(5), config="")
    checkpoints.wait()
    assert sorted(os.listdir(path)) == ["1", "3", "5"]


def test_a_disk_that_is_full_by_simulation(saved, monkeypatch):
    checkpoints, path = saved

    def full(descriptor):
        del descriptor
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        checkpoints.save(4, state(4), config="")
        with pytest.raises(
            OSError, match="step 4 .*the disk is full. That of step 3 is"
        ):
            checkpoints.wait()
    assert sorted(os.listdir(path)) == ["1", "2", "3"]
    chex.assert_trees_all_equal(checkpoints.restore(state()).state, state(3))
    checkpoints.save(4, state(4), config="")
    assert checkpoints.restore(state()).step == 4


def test_a_disk_that_is_full(small_disk):
    small = state(1, reference=False, optimizer=optax.sgd(1.0))
    large = eqx.tree_at(lambda s: s.opt_state, small, jnp.ones(300_000))
    path = small_disk / "checkpoints"
    with Checkpoints(path, keep_last=1) as checkpoints:
        checkpoints.save(1, small, config="")
        checkpoints.save(2, large, config="")
        with pytest.raises(OSError, match="the disk is full. That of step 1 is kept"):
            checkpoints.wait()
        assert os.listdir(path) == ["1"]
        chex.assert_trees_all_equal(checkpoints.restore(small).state, small)


def test_orbax_alone_can_open_one(saved):
    import orbax.checkpoint as ocp

    _, path = saved
    with (
        ocp.PyTreeCheckpointer() as reader,
        pytest.warns(UserWarning, match="Populating sharding info from sharding file"),
    ):
        values = reader.restore(path / "3" / "state")
    expected = np.asarray(state(3).policy.embedding)
    assert np.array_equal(values["policy/embedding"], expected)
    arrays = json.loads((path / "3" / "contents.json").read_text())["arrays"]
    assert arrays["policy/embedding"] == "float32[50,32]"
    assert arrays["key"] == "key<fry>[]"


@pytest.mark.parametrize("name", ["lr[1e-4]", "a*b", "a?b", "a\\b"])
def test_a_path_that_orbax_takes_for_a_pattern_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="glob character or a backslash. Received"):
        Checkpoints(tmp_path / name / "checkpoints")


def test_what_cannot_be_read_back_replaces_nothing(tmp_path, monkeypatch):
    """Below such a path Orbax saves without an error, and can restore nothing."""
    module = "grpojax.runs.checkpoint.checkpoints.check_characters"
    monkeypatch.setattr(module, lambda _: None)
    path = tmp_path / "lr[1e-4]"
    with Checkpoints(tmp_path / "good", keep_last=1) as checkpoints:
        checkpoints.save(1, state(1))
    shutil.copytree(tmp_path / "good", path)
    with Checkpoints(path, keep_last=1) as checkpoints:
        checkpoints.save(2, state(2))
        with pytest.raises(OSError, match="step 2 .* That of step 1 is kept"):
            checkpoints.wait()
        assert os.listdir(path) == ["1"]


def test_only_checkpoints_are_counted_and_pruned(tmp_path):
    mine = [tmp_path / "98" / "notes.txt", tmp_path / "99" / "x" / "y"]
    mine += [tmp_path / "7.unfinished", tmp_path / "x.unfinished", tmp_path / "x"]
    mine += [tmp_path / "y.discarded" / "z", tmp_path / "007" / "manifest.json"]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    with Checkpoints(tmp_path, keep_last=2) as checkpoints:
        assert checkpoints.steps() == []
        for step in (1, 2, 3):
            checkpoints.save(step, state(step))
        assert checkpoints.restore(state()).step == 3
        assert checkpoints.restore(state()).problems == ()
        assert checkpoints.steps() == [2, 3]
    assert [path.read_text() for path in mine] == ["mine"] * len(mine)


@pytest.mark.parametrize("name", ["4", "4.unfinished"])
@pytest.mark.parametrize("is_file", [True, False])
def test_what_has_the_name_of_a_checkpoint_is_moved_aside(tmp_path, name, is_file):
    path = tmp_path / name if is_file else tmp_path / name / "notes.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, state(4))
        assert checkpoints.restore(state()).step == 4
    if is_file or name == "4":  # A directory `4.unfinished` is an interrupted save's.
        moved = tmp_path / f"{name}.moved-1"
        assert (moved if is_file else moved / "notes.txt").read_text() == "mine"


def test_damaged_checkpoints_of_later_steps_do_not_push_good_ones_out(saved):
    _, path = saved
    for step in ("98", "99"):
        shutil.copytree(path / "3", path / step)
        (path / step / "contents.json").write_text('{"score": 9}')
    with Checkpoints(path, keep_last=2, keep_best=1) as checkpoints:
        assert checkpoints.restore(state()).step == 3
        checkpoints.save(4, state(4))
        restored = checkpoints.restore(state())
        assert restored.step == 4 and len(restored.problems) == 2
        assert checkpoints.steps() == [3, 4, 98, 99]


def test_more_best_ones_than_there_are(tmp_path):
    with Checkpoints(tmp_path, keep_last=1, keep_best=5) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state(), score=float(step))
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2, 3]


def test_the_configuration_is_read_alone(saved):
    checkpoints, path = saved
    assert saved_config(path) == CONFIG
    shutil.rmtree(path / "3" / "state")
    checkpoints.save(4, state(4), config="run:\n  steps: 4\n")
    checkpoints.wait()
    assert saved_config(path) == "run:\n  steps: 4\n"
    (path / "4" / "recipe.yaml").write_text("run:\n  steps: 9\n")
    assert saved_config(path) == CONFIG
    assert saved_config(path / "nothing") is None


def test_a_learning_rate_that_an_old_checkpoint_lacks_is_filled_in(tmp_path):
    """It is derived from the count, which another part of the optimizer has."""
    schedule = optax.linear_schedule(1e-3, 0.0, 100)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))
    recorded = update.with_learning_rate(optimizer, schedule)
    old = state(1, optimizer=optimizer)
    seven = jax.tree.map(lambda x: x + 7 if x.dtype == jnp.int32 else x, old.opt_state)
    old = eqx.tree_at(lambda s: s.opt_state, old, seven)
    like = state(2, optimizer=recorded)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, old)
        found = checkpoints.restore(like).state
        other = state(2, optimizer=update.with_learning_rate(optax.sgd(1.0), 1.0))
        with pytest.raises(ValueError, match="wrong model"):
            checkpoints.restore(other)
    chex.assert_trees_all_equal(found.policy, old.policy)
    *before, record = found.opt_state
    chex.assert_trees_all_equal(tuple(before), old.opt_state)
    assert int(record.updates) == 7
    # Each array has memory of its own, or none could be donated.
    params = eqx.filter(found.policy, eqx.is_array)
    advance = jax.jit(recorded.update, donate_argnums=1)
    _, (*_, record) = advance(params, found.opt_state, params)
    assert int(record.updates) == 8
    assert float(record.learning_rate) == np.float32(schedule(7))


@pytest.mark.parametrize("call", [1, 4, 16])
def test_a_clock_that_is_set_forward_fails_no_checkpoint(tmp_path, monkeypatch, call):
    """By an hour, once, when it is read for the n-th time."""
    reads, now = itertools.count(), time.time
    clock = lambda: now() + 3600 * (next(reads) >= call)
    monkeypatch.setattr(time, "time", clock)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, state())
    assert next(reads) > call and Checkpoints(tmp_path / "checkpoints").steps() == [1]
