"""Restricted pickles: plain data and arrays round-trip, and anything else is refused by name."""

import argparse
import collections
import datetime
import os
import pickle
import time
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crlviz.errors import CrlvizError
from crlviz.interchange import paper_format, restricted_pickle

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4) | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


def _read(tmp_path, value, protocol=4):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    return restricted_pickle.read(path, 1 << 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pickles")


@given(PLAIN, st.integers(2, 5))
def test_plain_values_round_trip(folder, value, protocol):
    assert _read(folder, value, protocol) == value


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("dtype", ["f4", "<f8", ">f4", "i4", "u1", "?", "f2"])
def test_arrays_round_trip(tmp_path, dtype, protocol):
    rng = np.random.default_rng(0)
    for shape in ((), (3,), (2, 3), (0, 4), (2, 1, 3)):
        array = np.asarray(rng.normal(size=shape) * 50).astype(dtype)
        again, same = _read(tmp_path, (array, array), protocol)
        np.testing.assert_array_equal(again, array)
        np.testing.assert_array_equal(same, array)
        assert again.dtype == array.dtype
    columns_first = np.asfortranarray(rng.normal(size=(3, 4)))
    np.testing.assert_array_equal(_read(tmp_path, columns_first, protocol), columns_first)


def test_jax_arrays_and_numpy_scalars_are_read(tmp_path):
    value = {"a": jnp.arange(6.0).reshape(2, 3), "b": np.float64(1.5), "c": [np.int32(7)], "d": jnp.float32(2)}
    back = _read(tmp_path, value)
    np.testing.assert_array_equal(back["a"], value["a"])
    assert (back["b"], back["c"], float(back["d"])) == (1.5, [7], 2.0)
    assert type(back["a"]) is np.ndarray


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (os.getcwd, "getcwd"),
        (argparse.Namespace(a=1), "argparse.Namespace"),
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        (datetime.date(2020, 1, 1), "datetime.date"),
        ({1, 2}, "EMPTY_SET"),
        ({1: 2}, "keys that are not text"),
        (np.array([None]), "'O8'"),
        (np.array(["a"]), "'U1'"),
        (np.array([1j]), "'c16'"),
        (np.zeros(2, "f4,f4"), "'V8'"),
        (np.ndarray, "functions or types"),
        ([np.dtype("f4")], "functions or types"),
        (bytearray(b"1"), "BYTEARRAY8"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_other_objects_are_refused_by_name(tmp_path, value, words):
    with pytest.raises(CrlvizError) as error:
        _read(tmp_path, value, 5 if isinstance(value, bytearray) else 4)
    assert words in str(error.value)
    assert "x.pkl" in str(error.value)


def test_large_files_and_paths_that_are_not_files_are_refused(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps("x" * 100))
    with pytest.raises(CrlvizError, match="not a pickle that can be read"):
        restricted_pickle.read(path, 50)
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(CrlvizError):
            restricted_pickle.read(place, 50)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CrlvizError, match="not a pickle that can be read"):
        restricted_pickle.read(tmp_path / "pipe", 50)


def _nested(depth: int) -> bytes:
    """A pickle of tuples that each hold the previous one twice: 2**depth values in four bytes per level."""
    return b"\x80\x04N" + b"".join(b"\x94h%c\x86" % index for index in range(depth)) + b"."


def _settings(count: int) -> bytes:
    """Settings objects that all take their fields from one dict, so that each holds a copy."""
    fields = b"\x80\x04}(" + b"".join(b"\x8c\x05%05dN" % index for index in range(count)) + b"u\x94"
    kind = b"\x8c\x08__main__\x8c\x04Args\x93\x94"
    return fields + kind + b"](" + b"h\x01)\x81h\x00b" * count + b"e\x86\x86."


def _self_containing() -> list:
    value: list = []
    value.append([value])
    return value


@pytest.mark.parametrize("key", ["alone", "log_alpha"])
@pytest.mark.parametrize("depth", [20, 30, 60, 250])
def test_exponential_nesting_is_refused_quickly(tmp_path, depth, key):
    path = tmp_path / "step_100.pkl"
    inner = _nested(depth)[2:-1]
    path.write_bytes(
        b"\x80\x04" + inner + b"." if key == "alone" else b"\x80\x04}\x8c\x09log_alpha" + inner + b"s}}\x87."
    )
    _refused_quickly(path, paper_format.read_parameters, "written out it would be more than 1,000,000 values")


def test_many_copies_and_cycles_are_refused_quickly(tmp_path):
    path = tmp_path / "args.pkl"
    path.write_bytes(_settings(20_000))
    _refused_quickly(path, paper_format.read_settings, "more than 1,000,000 values")
    path.write_bytes(pickle.dumps(_self_containing()))
    _refused_quickly(path, paper_format.read_settings, "holds itself")


def _refused_quickly(path, read, words):
    tracemalloc.start()
    began = time.perf_counter()
    with pytest.raises(CrlvizError, match=words) as error:
        read(path)
    seconds, (_, peak) = time.perf_counter() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "\n" not in str(error.value)
    assert seconds < 1 + 0.5 * path.stat().st_size / 1e5
    assert peak < 1e6 + 200 * path.stat().st_size


def test_moderate_sharing_is_read(tmp_path):
    shape = (3, 4)
    value = {"a": [shape] * 1000, "b": {"c": shape}}
    assert _read(tmp_path, value) == value


@pytest.mark.parametrize(
    ("module", "name", "words"),
    [
        ("jaxgcrl.agents.sac.sac", "SAC", "a run of another learner than contrastive RL"),
        ("jaxgcrl.agents.td3.td3", "TD3", "a run of another learner than contrastive RL"),
        ("brax.training.acme.running_statistics", "RunningStatisticsState", "brax's SAC, TD3 or PPO"),
        ("somebody.else", "SAC", "neither an array nor settings"),
    ],
)
def test_runs_of_other_learners_are_refused_in_a_sentence(tmp_path, module, name, words):
    """A pickle of an object of such a class, as protocol 4 writes it: the class by its name, then its fields."""
    path = tmp_path / "args.pkl"
    names = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name))
    path.write_bytes(b"\x80\x04" + names + b"\x93)\x81}b.")
    with pytest.raises(CrlvizError, match=f"{module}.{name}.*{words}"):
        restricted_pickle.read(path, 1 << 20)
