"""The Pareto front, and the picture of what depth and width cost."""

import numpy as np
import pytest
import xarray as xr

from analyses import efficiency
from crlviz import datasets
from crlviz.charts import depth_colour
from tests.toys import planted_runs


def grid(seeds=3, **more):
    shapes = ((4, 64), (8, 64), (16, 64), (4, 128), (4, 256))
    rows = [
        {"depth": depth, "width": width, "seed": seed, "score": depth / 32 + seed / 100, "seconds": depth * width / 64}
        for depth, width in shapes
        for seed in range(seeds)
    ]
    return planted_runs(*(row | more for row in rows))


def test_a_planted_front():
    costs = [1, 2, 3, 4, 4, 5]
    scores = [0.1, 0.5, 0.4, 0.5, 0.9, 0.9]
    assert efficiency.pareto(costs, scores).tolist() == [True, True, False, False, True, False]


def test_the_front_against_its_definition():
    costs, scores = np.random.default_rng(0).integers(0, 6, (2, 40))
    brute = [
        not any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in zip(costs, scores, strict=True))
        for cost, score in zip(costs, scores, strict=True)
    ]
    assert efficiency.pareto(costs, scores).tolist() == brute


def test_the_picture_tells_all_three_comparisons_and_the_seeds():
    text = str(efficiency.plot(grid(), metric="success").to_dict())
    for words in ("equal updates", "equal parameters", "equal seconds", "3 seeds", "Pareto", "equal training seconds"):
        assert words in text
    assert depth_colour(16) in text
    assert "trained at once" not in text
    assert "each one's share, one of 3" in efficiency.plot(grid(together=3)).to_json()
    assert "'type': 'log'" in text
    one = str(efficiency.plot(grid(seeds=1)).to_dict())
    assert "one seed, so no interval" in one
    assert "no claim" in one


def test_it_is_drawn_from_the_file_alone(tmp_path):
    data = grid()
    datasets.save(data, tmp_path / "runs.nc")
    with xr.open_dataset(tmp_path / "runs.nc") as again:
        assert efficiency.plot(again.load()).to_dict() == efficiency.plot(data).to_dict()


def test_what_is_missing_is_said():
    text = str(efficiency.plot(grid(flops_per_update=np.nan)).to_dict())
    assert "FLOPs are left out" in text
    assert "against FLOPs" not in text
    data = grid()
    assert "crlviz sweep ENV" in str(efficiency.plot(data.isel(run=data.depth.values == 4)).to_dict())


@pytest.mark.parametrize("metric", ["success", "time_at_goal"])
def test_command(four_shapes, tmp_path, metric):
    from click.testing import CliRunner

    out = [tmp_path / "e.svg", tmp_path / "e.nc"]
    done = CliRunner().invoke(
        efficiency.command, [str(four_shapes), "--metric", metric, *(f"--out={path}" for path in out)]
    )
    assert done.exit_code == 0, done.output
    assert "At equal parameters" in done.output
    assert all(path.stat().st_size > 1000 for path in out)


@pytest.fixture(scope="module")
def four_shapes(tmp_path_factory):
    from tests.analyses.test_runs import write_metrics
    from tests.toys import toy_config, untrained_run

    folder = tmp_path_factory.mktemp("shapes")
    for depth, width, batch in ((4, 8, 8), (8, 8, 8), (4, 16, 8), (4, 8, 16)):
        shape = {"actor__depth": depth, "critic__depth": depth, "actor__width": width, "critic__width": width}
        run = untrained_run(folder / f"{depth}-{width}-{batch}", toy_config(batch_size=batch, **shape))
        write_metrics(run, [0, *[depth / 10] * 5], seconds=depth)
    return folder


def test_it_looks_at_shapes_alone(four_shapes):
    groups = efficiency.compute([four_shapes]).group.values.tolist()
    assert groups == ["depth 4, width 8", "depth 4, width 16", "depth 8, width 8"]
