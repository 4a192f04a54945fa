"""The settings in which checkpoints differ become dimensions of a Dataset."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from crlviz import datasets
from crlviz.errors import UsageError

BASE = {
    "env": "point_u_maze",
    "algorithm": "crl",
    "depth": 4,
    "actor_depth": 4,
    "width": 64,
    "actor_width": 64,
    "batch_size": 64,
    "seed": 0,
    "env_steps": 1000,
}


def agents(*changes):
    return [SimpleNamespace(facts=BASE | change, source=Path(f"run{n}")) for n, change in enumerate(changes)]


def deep(depth, **more):
    return {"depth": depth, "actor_depth": depth, **more}


def combined(some):
    each = [xr.Dataset({"q": ("x", np.array([n, n + 0.5]))}) for n in range(len(some))]
    return datasets.combine(some, each, xr.Dataset({"way": ("x", [0.0, 1.0])}, attrs={"env": "e"}))


def test_a_grid_of_depths_and_seeds():
    some = agents(deep(16, seed=1), deep(4, seed=0), deep(4, seed=1), deep(16, seed=0))
    dataset = combined(some)
    assert set(dataset.q.dims) == {"depth", "seed", "x"}
    assert dataset.q.sel(depth=16, seed=1).values.tolist() == [0, 0.5]
    assert dataset.q.sel(depth=4, seed=1).values.tolist() == [2, 2.5]
    assert dataset.way.dims == ("x",)
    assert dataset.attrs == {"env": "e", "checkpoints": "run0\nrun1\nrun2\nrun3", "differing": "depth\nseed"}


def test_an_incomplete_grid_keeps_one_dimension():
    some = agents(deep(4), deep(16), deep(4, width=128, actor_width=128))
    dataset = combined(some)
    assert dataset.q.dims == ("checkpoint", "x")
    labels = [label for label, _, _ in datasets.each(dataset)]
    assert labels == ["depth 4, width 64", "depth 16, width 64", "depth 4, width 128"]


def test_the_actors_depth_is_named_only_if_it_differs_from_the_critics():
    assert datasets.differing(agents(deep(4), deep(8))) == ["depth"]
    assert datasets.differing(agents(deep(4), {"actor_depth": 8})) == ["actor_depth"]


def test_one_agent_is_labeled_by_its_depth():
    dataset = combined(agents(deep(8)))
    [(label, facts, part)] = datasets.each(dataset)
    assert (label, facts) == ("depth 8", {"depth": 8})
    assert part.q.values.tolist() == [0, 0.5]


def test_each_visits_every_cell_of_a_grid():
    some = agents(*(deep(depth, seed=seed) for depth in (4, 8) for seed in (0, 1)))
    result = {label: part.q.values[0] for label, _, part in datasets.each(combined(some))}
    assert result == {"depth 4, seed 0": 0, "depth 4, seed 1": 1, "depth 8, seed 0": 2, "depth 8, seed 1": 3}


SETTINGS = [
    ("gamma", 0.9, 0.99, "gamma 0.9"),
    ("crl.learning_rate", 1e-4, 3e-4, "crl.learning_rate 0.0001"),
    ("redraw_goals", False, True, "redraw_goals false"),
    ("precision", "bfloat16", "float32", "precision bfloat16"),
]


@pytest.mark.parametrize(("name", "low", "high", "words"), SETTINGS)
def test_any_setting_becomes_a_dimension(tmp_path, name, low, high, words):
    """In the Dataset itself and after it is read back from a file."""
    dataset = combined(agents(*(deep(4, seed=seed, **{name: value}) for value in (high, low) for seed in (0, 1))))
    assert set(dataset.q.dims) == {name, "seed", "x"}
    assert dataset.q.sel({name: low, "seed": 1}).values.tolist() == [3, 3.5]
    datasets.save(dataset, tmp_path / "whole.nc")
    with xr.open_dataset(tmp_path / "whole.nc") as read:
        for each in (dataset, read):
            assert {f"{words}, seed 0", f"{words}, seed 1"} < {label for label, _, _ in datasets.each(each)}
            result = {label: len(parts) for label, _, parts in datasets.groups(each)}
            assert (result[words], len(result)) == (2, 2)


def test_settings_of_storage_distinguish_runs_only_as_a_last_resort():
    assert datasets.differing(agents({"seed": 0, "keep": 1}, {"seed": 1, "keep": 0})) == ["seed"]
    assert datasets.differing(agents({"keep": 1}, {"keep": 0})) == ["keep"]


def test_a_setting_that_a_run_lacks_is_unknown():
    """An imported run does not record its gamma."""
    assert datasets.differing(agents({"depth": 4, "gamma": 0.9}, {"depth": 8})) == ["depth"]
    some = agents({"gamma": 0.9}, {"gamma": 0.99}, {"seed": 1})
    assert datasets.differing(some) == ["gamma", "seed"]
    labels = [label for label, _, _ in datasets.each(combined(some))]
    assert labels == ["gamma 0.9, seed 0", "gamma 0.99, seed 0", "gamma unknown, seed 1"]


def test_long_labels_end_in_a_count():
    many = {f"crl.number{n}": n for n in range(9)}
    both = [{"depth": depth} | {name: value * depth for name, value in many.items()} for depth in (4, 8)]
    words = datasets.labels(both)
    assert words[0] == "depth 4, crl.number0 0, crl.number1 4, crl.number2 8, 6 more settings"
    both[1] = both[0] | {"crl.number8": 1}  # they differ in the last setting only, so nothing is cut
    assert datasets.labels(both)[1].endswith("crl.number8 1")


def test_a_dataset_of_an_older_crlviz_has_its_labels():
    dataset = combined(agents(deep(16), deep(4)))
    del dataset.attrs["differing"]
    assert [label for label, _, _ in datasets.each(dataset)] == ["depth 4", "depth 16"]


def test_the_same_checkpoint_twice_is_refused():
    with pytest.raises(UsageError, match="run0 and run1 do not differ"):
        combined(agents({}, {}))


def test_groups_collect_seeds_in_order_of_depth():
    some = agents(*(deep(depth, seed=seed) for depth in (16, 4) for seed in (0, 1)), deep(8))
    result = {
        label: (depth, [part.q.values[0] for part in parts]) for label, depth, parts in datasets.groups(combined(some))
    }
    assert list(result.items()) == [("depth 4", (4, [2, 3])), ("depth 8", (8, [4])), ("depth 16", (16, [0, 1]))]


def test_groups_have_a_depth_that_all_runs_share():
    dataset = combined(agents(deep(16, seed=1), deep(16, seed=0)))
    [(label, depth, parts)] = datasets.groups(dataset)
    assert (label, depth, len(parts)) == ("depth 16", 16, 2)
    [(label, depth, _), _] = datasets.groups(combined(agents(deep(16), deep(16, env="point_u4_maze"))))
    assert (label, depth) == ("point_u4_maze", 16)


def test_runs_collect_their_checkpoints_in_order():
    some = agents(*(deep(depth, env_steps=steps) for depth, steps in ((4, 200), (4, 100), (8, 200))))
    result = datasets.runs(combined(some))
    values = {run: {steps: part.q.values[0] for steps, part in parts.items()} for run, parts in result.items()}
    assert values == {"depth 4": {100: 1, 200: 0}, "depth 8": {200: 2}}
    assert [list(parts) for parts in result.values()] == [[100, 200], [200]]


def test_a_single_run_is_labeled_by_its_directory():
    some = agents(deep(4, env_steps=100), deep(4, env_steps=200))
    for agent in some:
        agent.source = Path(f"runs/deep/checkpoints/{agent.facts['env_steps']}")
    assert list(datasets.runs(combined(some))) == ["deep"]
