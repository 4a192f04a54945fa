"""``crlviz bench`` at tiny sizes: all results are present and its ratios are consistent."""

import json
import math
import os

import jax
import numpy as np
import pytest

from crlviz import cli
from training.bench import measuring, roofline, timing

TINY = ["--num-envs", 4, "--window", 20, "--updates", 3, "--seconds", 0.01, "--parallel-seeds", 2]
ROW = {"depth": 4, "width": 8, "batch_size": 8, "of_roofline": 0.5}


@pytest.fixture
def run(monkeypatch, capsys):
    """A function that runs ``crlviz bench`` without child processes, since each takes seconds to import jax."""
    monkeypatch.setattr(timing, "in_its_own_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(timing, "use_cache", lambda cache: None)

    def run_bench(*arguments):
        monkeypatch.setattr("sys.argv", ["crlviz", "bench", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return run_bench


@pytest.fixture
def only_sampling(monkeypatch):
    """Replace every measurement except the sampling rates by constants."""
    monkeypatch.setattr(timing, "env_steps_per_second", lambda *arguments: 100.0)
    monkeypatch.setattr(roofline, "copy_rate", lambda: 1e9)
    monkeypatch.setattr(measuring, "measure_updates", lambda *arguments: ROW)
    monkeypatch.setattr(timing, "sampling_peak", lambda *arguments: 2**30)


@pytest.mark.slow
def test_table_json_and_chart(run, tmp_path):
    sizes = ["--depth", 4, "--width", 8, "--batch-size", 8]
    code, out, err = run(*sizes, *TINY, "--step", "--json", tmp_path / "a.json", "--out", tmp_path / "a.svg")
    assert code == 0, err
    results = json.loads((tmp_path / "a.json").read_text())
    assert results["machine"]["jax"] == jax.__version__
    assert results["env_steps_per_second"] > 0
    assert results["copy_bytes_per_second"] > 0
    assert results["sampling"]["ours_rows_per_second"] > 0
    assert results["sampling"]["reference_rows_per_second"] > 0
    (row,) = results["updates"]
    assert (row["depth"], row["width"], row["batch_size"]) == (4, 8, 8)
    ours = row["ours_updates_per_second"]
    assert row["ours_first_seconds"] > row["ours_update_seconds"] > 0
    assert row["ours_peak_bytes"] >= 0
    assert row["of_roofline"] == pytest.approx(ours / row["roofline_updates_per_second"])
    assert row["times_reference"] == pytest.approx(ours / row["reference_updates_per_second"])
    assert row["times_one_seed"] == pytest.approx(row["seeds_updates_per_second"] / ours)
    assert results["seeds"] == 2
    assert row["flops"] == timing.Case((4, 2, 2), 4, 8, 8).built.cost(8)["flops_per_update"]
    parts = results["steps"][0]["seconds"]
    assert list(parts) == ["physics", "policy", "insert", "sample and relabel", "products", "rest of the updates"]
    assert all(value > 0 for name, value in parts.items() if name != "rest of the updates")
    table = [line.split() for line in out.splitlines()]
    assert ["4", "8", "8"] in [line[:3] for line in table]
    picture = (tmp_path / "a.svg").read_text()
    assert all(word in picture for word in ("crlviz", "reference", "matrix products only", "width 8, batch 8"))


def test_a_depth_without_a_reference_is_in_table_and_chart():
    row = {"depth": 256, "width": 8, "batch_size": 8, "ours_first_seconds": 12.5, "ours_peak_bytes": 2**30}
    row |= {
        "ours_update_seconds": 0.5,
        "ours_updates_per_second": 2.0,
        "roofline_updates_per_second": 4.0,
        "of_roofline": 0.5,
        "times_reference": None,
    }
    assert measuring.table_line(row, ["ours", "reference"]).split() == [
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
    fused = row | {"fused_updates_per_second": 3.0}
    assert measuring.table_line(fused, ["ours", "fused", "reference"]).split()[12:15] == ["2.00", "3.00", "-"]
    chart = measuring.plot({"updates": [row], "env": "ant", "machine": {"device": "cpu", "cores": "2 cores"}}).to_dict()
    updates, first = chart["datasets"].values()
    assert {point["implementation"]: point["updates"] for point in updates} == {
        "crlviz": 2.0,
        "matrix products only": 4.0,
    }
    assert {point["implementation"]: point["first"] for point in first} == {"crlviz": 12.5}
    results = {"updates": [fused], "env": "ant", "machine": {"device": "a card", "cores": "2 cores"}}
    updates, *_ = measuring.plot(results).to_dict()["datasets"].values()
    assert {point["implementation"]: point["updates"] for point in updates}["crlviz, fused path"] == 3.0


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
        (["--parallel-seeds", "0"], "'--parallel-seeds'"),
        (
            ["--step", "--batch-size", "64,1024", "--num-envs", "4", "--window", "200"],
            "batch_size is 1,024 but the buffer",
        ),
        (["--compile", "point_u_maze", "--step"], "it does not go with --step"),
        (["--compile", "point_u_maze", "--remat"], "it does not go with --remat"),
        (["--compile", "point_u_maze", "--out", "picture.svg"], "it does not go with --out"),
        (["--compile", "point_u_maze", "--depth", "4"], "it does not go with --depth"),
        (["--device", "h100", "--step"], "it does not go with --step"),
        (["--device", "h100", "--parallel-seeds", "2"], "it does not go with --parallel-seeds"),
        (["--device", "h10"], "not 'h10' (did you mean h100?)"),
        (["--device", "h100", "--depth", "6"], "depth 6 "),
    ],
)
def test_mistakes_are_reported_before_measuring(run, arguments, words):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize(("batch_size", "measured"), [(76, True), (77, False)])
def test_the_reference_samples_only_if_its_windows_fill_a_batch(run, only_sampling, tmp_path, batch_size, measured):
    """4 windows of 20 steps have 4 * 19 rows with a later step."""
    code, out, err = run("--depth", 4, "--batch-size", batch_size, *TINY, "--json", tmp_path / "a.json")
    assert code == 0, err
    results = json.loads((tmp_path / "a.json").read_text())["sampling"]
    assert results["ours_rows_per_second"] > 0
    assert (results["reference_rows_per_second"] is not None) == measured
    assert results["reference_peak_bytes"] == (2**30 if measured else None)
    assert ("times the reference (4 windows: 1.00 GiB), " in out) == measured
    assert "1.00 GiB without the buffer), " in out


def test_the_old_name_of_an_option_still_counts(run, only_sampling, monkeypatch):
    asked = []
    monkeypatch.setattr(measuring, "measure_updates", lambda case, *arguments: asked.append(arguments[0]) or ROW)
    code, _, err = run("--depth", "4,16", "--twin-depth", 4, *TINY)
    assert code == 0, err
    assert err == "--twin-depth is called --reference-depth now\n"
    assert asked == [["ours", "reference"], ["ours"]]


def test_compile_times_are_saved(run, monkeypatch, tmp_path):
    row = {"reset_seconds": 1.0, "step_seconds": 2.0, "cpu_seconds": 3.0, "steps_per_second": 4.0}
    monkeypatch.setattr(timing, "compile_speed", lambda id: {"id": id, **row})
    cached = jax.config.jax_enable_compilation_cache
    try:
        code, out, err = run("--compile", "point_u_maze,ant", "--json", tmp_path / "a.json")
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)
    assert code == 0, err
    results = json.loads((tmp_path / "a.json").read_text())
    assert results["machine"]["jax"] == jax.__version__
    assert results["num_envs"] == timing.COMPILED
    assert results["compiled"] == [{"id": "point_u_maze", **row}, {"id": "ant", **row}]
    assert [line.split()[0] for line in out.splitlines()[-2:]] == ["point_u_maze", "ant"]


def test_the_roofline_counts_the_products_of_an_update():
    calls = roofline.products(16, 8)
    assert calls.keys() == roofline.PRODUCTS.keys()
    forward, to_inputs, to_weights = (calls[name]() for name in ("forward", "to inputs", "to weights"))
    assert forward.shape == to_inputs.shape == (16, 8)
    assert {product.shape for product in to_weights} == {(8, 8)}
    # An update has 11 products, a call 8. If each call takes one second, the update takes 11/8 seconds.
    seconds = dict.fromkeys(calls, 1.0)
    assert roofline.flops_per_second(seconds, 16, 8) == pytest.approx(2 * 16 * 8 * 8 * 8)


def test_alternate_runs_the_calls_in_turn():
    order = []
    best = roofline.alternate({name: (lambda name=name: order.append(name)) for name in "ab"}, 0.0)
    assert all(0 <= seconds < math.inf for seconds in best.values())
    turns = [name for name, before in zip(order, [None, *order], strict=False) if name != before]
    assert turns == list("ab" * 3)


@pytest.mark.slow
def test_updates_run_as_many_steps_as_asked():
    """The number of updates is an argument of the compiled program."""
    case = timing.Case((4, 2, 2), 4, 8, 8)
    one, three = case.updates("ours"), case.updates("ours")
    (a, divergence) = one(1)
    assert not divergence.found
    assert int(a.actor_optimizer[0].count) == 1
    (b, _) = three(3)
    assert int(b.actor_optimizer[0].count) == 3
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(b))


@pytest.mark.slow
def test_each_seed_updates_its_own_learner():
    """Every slot makes all its updates and shares no parameters."""
    (learners, divergence) = timing.Case((4, 2, 2), 4, 8, 8).updates("ours", seeds=3)(2)
    assert not divergence.found.any()
    assert learners.actor_optimizer[0].count.tolist() == [2, 2, 2]
    for leaf in jax.tree.leaves(learners.actor["blocks"]):
        assert len({slot.tobytes() for slot in np.asarray(leaf)}) == 3


def test_in_its_own_process_runs_in_another_process():
    assert timing.in_its_own_process(os.getpid) != os.getpid()
