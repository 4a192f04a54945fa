"""The Pareto front, and the picture of scores over costs."""

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from scipy.stats import binom

from analyses.common import runs
from analyses.pages import demo, demo_page
from analyses.sweeps import depth_vs_width, efficiency
from crlviz import datasets
from crlviz.charts import depth_color
from tests.helpers.toys import plant_curve, planted_run, planted_runs


def grid(seeds=3, **more):
    shapes = ((4, 64), (8, 64), (16, 64), (4, 128), (4, 256))
    rows = [
        {"depth": depth, "width": width, "seed": seed, "score": depth / 32 + seed / 100, "seconds": depth * width / 64}
        for depth, width in shapes
        for seed in range(seeds)
    ]
    return planted_runs(*(row | more for row in rows))


def shape(depth, width):
    return {
        f"{name}__{side}": size for name in ("actor", "critic") for side, size in (("depth", depth), ("width", width))
    }


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


def test_the_picture_states_all_three_comparisons_and_the_seeds():
    text = str(efficiency.plot(grid(), metric="success").to_dict())
    for words in ("equal updates", "equal parameters", "equal seconds", "3 seeds", "Pareto", "equal training seconds"):
        assert words in text
    assert depth_color(16) in text
    assert "trained at once" not in text
    assert "each seed's share, one of 3" in efficiency.plot(grid(together=3)).to_json()
    assert "'type': 'log'" in text
    one = str(efficiency.plot(grid(seeds=1)).to_dict())
    assert "one seed, so this is a picture and no claim" in one


def test_a_saved_dataset_gives_the_same_chart(tmp_path):
    data = grid()
    datasets.save(data, tmp_path / "runs.nc")
    with xr.open_dataset(tmp_path / "runs.nc") as again:
        assert efficiency.plot(again.load()).to_dict() == efficiency.plot(data).to_dict()


def test_missing_data_is_stated():
    text = str(efficiency.plot(grid(flops_per_update=np.nan)).to_dict())
    assert "FLOPs are left out" in text
    assert "against FLOPs" not in text
    data = grid()
    assert "crlviz sweep ENV" in str(efficiency.plot(data.isel(run=data.depth.values == 4)).to_dict())


@pytest.mark.parametrize("metric", ["success", "time_at_goal"])
def test_command(four_shapes, tmp_path, metric):
    out = [tmp_path / "e.svg", tmp_path / "e.nc"]
    done = CliRunner().invoke(
        efficiency.command, [str(four_shapes), "--metric", metric, *(f"--out={path}" for path in out)]
    )
    assert done.exit_code == 0, done.output
    assert "At equal updates" in done.output
    assert all(path.stat().st_size > 1000 for path in out)


@pytest.fixture(scope="module")
def four_shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    for depth, width, batch in ((4, 8, 8), (8, 8, 8), (4, 16, 8), (4, 8, 16)):
        planted_run(
            folder / f"{depth}-{width}-{batch}", [0, *[depth / 10] * 5], depth, **shape(depth, width), batch_size=batch
        )
    return folder


def test_compute_selects_runs_that_differ_in_shape_alone(four_shapes):
    groups = efficiency.compute([four_shapes]).group.values.tolist()
    assert groups == ["depth 4, width 8", "depth 4, width 16", "depth 8, width 8"]


SHAPES = ((4, 8), (8, 8), (16, 8), (4, 16), (4, 32))


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory):
    """Run directories of five shapes and three seeds, by shape and seed."""
    folder = tmp_path_factory.mktemp("seeds")
    return {
        (depth, width, seed): planted_run(
            folder / f"{depth}-{width}-{seed}", [0, 0.5], seed=seed, **shape(depth, width)
        )
        for depth, width in SHAPES
        for seed in range(3)
    }


def with_scores(data, draw):
    """The same runs with flat learning curves at ``draw(depth, width)``."""
    level = [draw(depth, width) for depth, width in zip(data.depth.values, data.width.values, strict=True)]
    data = data.assign(score_success=data.score_success.copy(data=level))
    return data.assign(success=data.success.copy(data=np.repeat(np.array(level)[:, None], data.sizes["evaluation"], 1)))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3])
def test_false_positive_rate_where_depth_equals_width(three_seeds, seeds):
    """Skewed scores whose spread depends on the network: all claims are false, and at most 5 % of pictures make one."""
    data, rng = (
        efficiency.compute([path for key, path in three_seeds.items() if key[2] < seeds]),
        np.random.default_rng(0),
    )
    claims = 0
    for _ in range(60):
        found = depth_vs_width.compare(with_scores(data, lambda d, w: rng.beta(0.8 * d, 0.2 * d)), "success")
        assert found.equal.tolist() == ["updates", "seconds"]
        claims += (found.verdict != 0).any()
        claimed = found.sentence.str.contains("is better")
        assert (claimed == (found.verdict != 0)).all()
    assert claims <= (0 if seeds == 2 else binom.ppf(0.999, 60, 0.05))


def test_a_large_effect_is_found_in_run_directories(three_seeds, tmp_path):
    rng = np.random.default_rng(1)
    for (depth, _, _), path in three_seeds.items():
        plant_curve(path, [0, *[{4: 0.2, 8: 0.5, 16: 0.8}[depth] + 0.03 * rng.normal()] * 5])
    done = CliRunner().invoke(
        efficiency.command, [*map(str, three_seeds.values()), "--metric", "success", "--out", str(tmp_path / "e.json")]
    )
    assert done.exit_code == 0, done.output
    assert done.output.count("deeper is better") == 2
    assert "At equal updates, 2 doublings of depth (4 to 16) took success from 0.2" in done.output


@pytest.mark.slow
def test_the_demo_finds_a_planted_effect_and_no_false_one(three_seeds):
    kinds = [
        demo.Kind("", name, d, w, 1) for name, (d, w) in zip("abcd", ((4, 8), (16, 8), (4, 16), (4, 32)), strict=True)
    ]
    titles = {(kind.depth, kind.width): kind.title for kind in kinds}
    chosen = {path: titles[key[:2]] for key, path in three_seeds.items() if key[:2] in titles}
    data = runs.compute(list(chosen)).assign_coords(group=("run", list(chosen.values())))
    rng = np.random.default_rng(2)
    false = 0
    for _ in range(100):
        table = efficiency.table(with_scores(data, lambda d, w: rng.beta(0.8 * w, 0.2 * w)), "success")
        false += any("deeper is" in sentence for sentence in demo_page.findings(table, kinds))
    assert false <= binom.ppf(0.999, 100, 0.05)
    large = efficiency.table(with_scores(data, lambda d, w: d / 20 + 0.03 * rng.normal()), "success")
    assert all("deeper is better here" in sentence for sentence in demo_page.findings(large, kinds))
