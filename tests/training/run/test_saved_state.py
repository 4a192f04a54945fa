"""Saved states: snapshots are copies, read back bit for bit, verified, and only the newest is kept."""

import json
import os
from functools import partial

import jax
import numpy as np
import pytest

from crlviz.checkpoints import checked_json
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError
from tests.helpers.toys import begun, stepped, toy_config
from training.run import saved_state as states
from training.run.building import build
from training.run.saved_state import Counters

COUNTERS = Counters(step=3, train_seconds=0.1 + 0.2, rewinds=1, sums={"critic_loss": 1 / 3})


@pytest.fixture(scope="module")
def loop():
    return build(toy_config())


@pytest.fixture(scope="module")
def step(loop):
    return jax.jit(partial(stepped, loop), donate_argnums=0)


@pytest.fixture
def state(loop):
    return jax.jit(partial(begun, loop))(jax.random.key(3))


@pytest.fixture
def run(tmp_path):
    RunDirectory(tmp_path).write_config({"algorithm": "crl", "config": {"seed": 3}})
    return tmp_path


def _example(loop):
    return jax.eval_shape(partial(begun, loop), jax.random.key(0))


def _read(run, example):
    """The only state of a run, without the slot axis, and its counters."""
    saved = states.verify(RunDirectory(run), RunDirectory(run).newest_state())
    return jax.tree.map(lambda leaf: leaf[0], states.read([saved], example)), saved.counters


def _assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def test_a_state_is_read_as_it_was_written(loop, step, state, run):
    state = step(state)[0]
    states.write(RunDirectory(run), 160, states.snapshot(state), COUNTERS)
    again, counters = _read(run, _example(loop))
    _assert_equal(again, state)
    assert counters == COUNTERS
    # The next training step is the same too, so the random keys were restored.
    _assert_equal(step(again)[0], step(state)[0])


def test_a_snapshot_does_not_change_with_training(step, state):
    leaves = [leaf for leaf in jax.tree.leaves(state) if not jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    # On a CPU numpy would get a view of jax's memory, which the next training step overwrites.
    assert any(np.shares_memory(np.asarray(leaf), np.asarray(leaf)) for leaf in leaves)
    addresses = {leaf.unsafe_buffer_pointer() for leaf in leaves}
    copied = states.snapshot(state)
    assert not addresses & {leaf.ctypes.data for leaf in jax.tree.leaves(copied)}
    before = [leaf.tobytes() for leaf in jax.tree.leaves(copied)]
    for _ in range(3):
        state = step(state)[0]
    assert [leaf.tobytes() for leaf in jax.tree.leaves(copied)] == before
    changed = [leaf.tobytes() for leaf in jax.tree.leaves(states.snapshot(state))]
    assert sum(a != b for a, b in zip(before, changed, strict=True)) > len(before) / 2


def test_the_previous_state_is_removed_once_the_new_one_is_complete(state, run, monkeypatch):
    copied = states.snapshot(state)
    states.write(RunDirectory(run), 80, copied, COUNTERS)
    states.write(RunDirectory(run), 160, copied, COUNTERS)
    assert [path.name for path in (run / "state").iterdir()] == ["160"]

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CrlvizError, match=r"cannot write .*240: No space"):
        states.write(RunDirectory(run), 240, copied, COUNTERS)
    assert [path.name for path in (run / "state").iterdir()] == ["160"]


def test_size_matches_the_file(loop, state, run):
    states.write(RunDirectory(run), 80, states.snapshot(state), COUNTERS)
    written = (run / "state" / "80" / "state.safetensors").stat().st_size
    assert 0 < written - states.size(_example(loop), replay=True) < 50_000  # the names of the arrays
    assert states.size(_example(loop), replay=False) < states.size(_example(loop), replay=True)


def _edit(**changes):
    """Change the manifest, and its checksum with it."""

    def damage(path):
        content = json.loads((path / "manifest.json").read_text())
        content.pop("sha256")
        content["counters"] |= changes.pop("counters", {})
        (path / "manifest.json").write_bytes(checked_json.encode(content | changes))

    return damage


def _by_hand(path):
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace('"step": 3', '"step": 2'))


def _flip(path):
    data = bytearray((path / "state.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "state.safetensors").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_flip, "state.safetensors is damaged: its checksum"),
        (lambda path: (path / "state.safetensors").unlink(), "state.safetensors cannot be read: No such file"),
        (lambda path: (path / "manifest.json").write_text("{"), "is damaged"),
        (lambda path: (path / "manifest.json").write_text("[" * 100_000), "is damaged"),
        (_by_hand, "manifest.json was changed since it was written"),
        (_edit(format=99), "newer than this crlviz reads"),
        (_edit(env_steps=81), "of another checkpoint, at 81 environment steps"),
        (_edit(settings="0" * 64), "of another run"),
        (_edit(files={}), "does not describe state.safetensors"),
        (_edit(counters={"step": "3"}), "from another config .step is '3'"),
        (_edit(counters={"sums": []}), "from another config .sums is "),
        (_edit(counters={"more": 1}), "from another config"),
        (lambda path: os.truncate(path / "state.safetensors", 10), "it has 10 bytes, but"),
        (
            lambda path: ((path / "state.safetensors").unlink(), os.mkfifo(path / "state.safetensors")),
            "is not a regular file",
        ),
    ],
)
def test_a_damaged_state_is_refused_and_named(loop, state, run, damage, words):
    states.write(RunDirectory(run), 80, states.snapshot(state), COUNTERS)
    damage(run / "state" / "80")
    with pytest.raises(CrlvizError, match=words) as error:
        _read(run, _example(loop))
    assert str(run) in str(error.value)


def test_a_state_of_another_config_is_refused(state, run):
    states.write(RunDirectory(run), 80, states.snapshot(state), COUNTERS)
    for changes, words in (({"actor__width": 9}, "not float32"), ({"actor__layer_norm": False}, "other arrays")):
        with pytest.raises(CrlvizError, match=words):
            _read(run, _example(build(toy_config(**changes))))
