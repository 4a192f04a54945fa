"""``crlviz bench`` at tiny sizes: what it promises is there, and its ratios are those of its numbers."""

import json
import math
import os

import jax
import numpy as np
import pytest

from crlviz import cli
from training.bench import bench_command, roofline, timing

TINY = ["--num-envs", 4, "--window", 20, "--updates", 3, "--seconds", 0.01, "--seeds", 2]


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs ``crlviz bench`` in this process, its own processes included: each takes seconds to import jax."""
    monkeypatch.setattr(timing, "in_its_own_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(timing, "_keep_programs", lambda cache: None)

    def typed(*arguments):
        monkeypatch.setattr("sys.argv", ["crlviz", "bench", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return typed


@pytest.fixture
def at_once(monkeypatch):
    """Nothing but sampling is measured: what else takes seconds is of a machine that was measured before."""
    row = {"depth": 4, "width": 8, "batch_size": 8, "of_ceiling": 0.5}
    monkeypatch.setattr(timing, "env_steps_per_second", lambda *arguments: 100.0)
    monkeypatch.setattr(roofline, "copy_rate", lambda: 1e9)
    monkeypatch.setattr(bench_command, "_measure_updates", lambda *arguments: row)
    monkeypatch.setattr(timing, "sampling_peak", lambda *arguments: 2**30)


@pytest.mark.slow
def test_the_table_the_numbers_and_the_chart(run, tmp_path):
    sizes = ["--depth", 4, "--width", 8, "--batch-size", 8]
    code, out, err = run(*sizes, *TINY, "--step", "--json", tmp_path / "a.json", "--out", tmp_path / "a.svg")
    assert code == 0, err
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["machine"]["jax"] == jax.__version__
    assert found["env_steps_per_second"] > 0
    assert found["copy_bytes_per_second"] > 0
    assert found["sampling"]["ours_rows_per_second"] > 0
    assert found["sampling"]["twin_rows_per_second"] > 0
    (row,) = found["updates"]
    assert (row["depth"], row["width"], row["batch_size"]) == (4, 8, 8)
    ours = row["ours_updates_per_second"]
    assert row["ours_first_seconds"] > row["ours_update_seconds"] > 0
    assert row["ours_peak_bytes"] >= 0
    assert row["of_ceiling"] == pytest.approx(ours / row["ceiling_updates_per_second"])
    assert row["times_twin"] == pytest.approx(ours / row["twin_updates_per_second"])
    assert row["times_one_seed"] == pytest.approx(row["seeds_updates_per_second"] / ours)
    assert found["seeds"] == 2
    assert row["flops"] == timing.Case((4, 2, 2), 4, 8, 8).algorithm.cost(8)["flops_per_update"]
    parts = found["steps"][0]["seconds"]
    assert list(parts) == ["physics", "policy", "insert", "sample and relabel", "products", "rest of the updates"]
    assert all(value > 0 for name, value in parts.items() if name != "rest of the updates")
    table = [line.split() for line in out.splitlines()]
    assert ["4", "8", "8"] in [line[:3] for line in table]
    picture = (tmp_path / "a.svg").read_text()
    assert all(word in picture for word in ("crlviz", "plain twin", "matrix products alone", "width 8, batch 8"))


def test_a_depth_without_a_twin_has_a_row_and_a_place_in_the_chart():
    row = {"depth": 256, "width": 8, "batch_size": 8, "ours_first_seconds": 12.5, "ours_peak_bytes": 2**30}
    row |= {
        "ours_update_seconds": 0.5,
        "ours_updates_per_second": 2.0,
        "ceiling_updates_per_second": 4.0,
        "of_ceiling": 0.5,
        "times_twin": None,
    }
    assert bench_command._line(row).split() == [
        "256",
        "8",
        "8",
        "12.5",
        "-",
        "0.50",
        "-",
        "1.00",
        "-",
        "2.00",
        "-",
        "-",
        "50%",
        "-",
    ]
    chart = bench_command.plot(
        {"updates": [row], "env": "ant", "machine": {"device": "cpu", "cores": "2 cores"}}
    ).to_dict()
    updates, first = chart["datasets"].values()
    assert {point["what"]: point["updates"] for point in updates} == {"crlviz": 2.0, "matrix products alone": 4.0}
    assert {point["what"]: point["first"] for point in first} == {"crlviz": 12.5}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--depth", "four"], "--depth takes whole numbers"),
        (["--width", "0"], "--width takes numbers of at least 1"),
        (["--env", "point_u_maize"], "point_u_maize"),
        (["--out", "picture.bmp"], "picture.bmp"),
        (["--depth", "6"], "depth 6 "),
        (["--num-envs", "0"], "'--num-envs'"),
        (["--window", "1"], "'--window'"),
        (["--updates", "0"], "'--updates'"),
        (["--seeds", "0"], "'--seeds'"),
        (["--step", "--batch-size", "64,1024", "--num-envs", "4", "--window", "200"], "batch_size is 1,024 but replay"),
        (["--compile", "point_u_maze", "--step"], "--step cannot be given beside it"),
        (["--compile", "point_u_maze", "--remat"], "--remat cannot be given beside it"),
        (["--compile", "point_u_maze", "--out", "picture.svg"], "--out cannot be given beside it"),
        (["--compile", "point_u_maze", "--depth", "4"], "--depth cannot be given beside it"),
    ],
)
def test_what_cannot_be_measured_is_told_before_anything_is(run, arguments, words):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize(("batch_size", "measured"), [(76, True), (77, False)])
def test_the_twin_samples_where_its_windows_fill_a_batch(run, at_once, tmp_path, batch_size, measured):
    """4 windows of 20 steps have 4 * 19 rows with a step after them."""
    code, out, err = run("--depth", 4, "--batch-size", batch_size, *TINY, "--json", tmp_path / "a.json")
    assert code == 0, err
    found = json.loads((tmp_path / "a.json").read_text())["sampling"]
    assert found["ours_rows_per_second"] > 0
    assert (found["twin_rows_per_second"] is not None) == measured
    assert found["twin_peak_bytes"] == (2**30 if measured else None)
    assert ("times the twin (4 windows: 1.00 GiB), " in out) == measured
    assert "1.00 GiB beyond the ring), " in out


def test_seconds_to_compile_are_kept(run, monkeypatch, tmp_path):
    row = {"reset_seconds": 1.0, "step_seconds": 2.0, "cpu_seconds": 3.0, "steps_per_second": 4.0}
    monkeypatch.setattr(timing, "compile_speed", lambda id: {"id": id, **row})
    cached = jax.config.jax_enable_compilation_cache
    try:
        code, out, err = run("--compile", "point_u_maze,ant", "--json", tmp_path / "a.json")
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)
    assert code == 0, err
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["machine"]["jax"] == jax.__version__
    assert found["num_envs"] == timing.COMPILED
    assert found["compiled"] == [{"id": "point_u_maze", **row}, {"id": "ant", **row}]
    assert [line.split()[0] for line in out.splitlines()[-2:]] == ["point_u_maze", "ant"]


def test_the_ceiling_is_of_the_products_it_names():
    calls = roofline.products(16, 8)
    assert calls.keys() == roofline.PRODUCTS.keys()
    forward, to_inputs, to_weights = (calls[name]() for name in ("forward", "to inputs", "to weights"))
    assert forward.shape == to_inputs.shape == (16, 8)
    assert {product.shape for product in to_weights} == {(8, 8)}
    # 11 products in the update's mix, 8 of each kind in a call: were each call to take a second, 11/8 seconds.
    seconds = dict.fromkeys(calls, 1.0)
    assert roofline.flops_per_second(seconds, 16, 8) == pytest.approx(2 * 16 * 8 * 8 * 8)


def test_the_best_of_turns():
    order = []
    best = roofline.alternate({name: (lambda name=name: order.append(name)) for name in "ab"}, 0.0)
    assert all(0 <= seconds < math.inf for seconds in best.values())
    turns = [name for name, before in zip(order, [None, *order], strict=False) if name != before]
    assert turns == list("ab" * 3)


@pytest.mark.slow
def test_updates_are_those_of_a_training_step():
    """Two updates at once are two in turn, whatever the count is: it is no part of the program."""
    case = timing.Case((4, 2, 2), 4, 8, 8)
    together, in_turn = case.updates("ours"), case.updates("ours")
    (a, trouble) = together(1)
    assert not trouble.found
    assert int(a.actor_optimizer[0].count) == 1
    (b, _) = in_turn(3)
    assert int(b.actor_optimizer[0].count) == 3
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(b))


@pytest.mark.slow
def test_each_of_several_seeds_is_updated_by_its_own_learner():
    """What is counted as so many updates is as many: every slot makes its own, and none shares its parameters."""
    (learners, trouble) = timing.Case((4, 2, 2), 4, 8, 8).updates("ours", seeds=3)(2)
    assert not trouble.found.any()
    assert learners.actor_optimizer[0].count.tolist() == [2, 2, 2]
    for leaf in jax.tree.leaves(learners.actor["blocks"]):
        assert len({slot.tobytes() for slot in np.asarray(leaf)}) == 3


def test_a_process_of_its_own():
    assert timing.in_its_own_process(os.getpid) != os.getpid()
