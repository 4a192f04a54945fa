"""The demo, end to end at toy size, and the sentences on its page."""

import shutil
import sys

import pandas as pd
import pytest

from analyses.common import runs as run_data
from analyses.pages import demo, demo_page
from crlviz import charts, cli
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError, UsageError
from tests.helpers.toys import plant_curve, planted_run, toy_config, untrained_run


def rows(scores: dict[str, list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [{"group": group, "scores": values, "score": sum(values) / len(values)} for group, values in scores.items()]
    )


KINDS = [
    demo.Kind("a", "shallow", 4, 64, 1),
    demo.Kind("b", "deep", 16, 64, 1),
    demo.Kind("c", "wide", 4, 128, 1),
    demo.Kind("d", "long", 4, 64, 4),
]


def test_findings():
    table = rows(
        {
            "shallow": [0.05, 0.1, 0.12],
            "deep": [0.8, 0.85, 0.81],
            "wide": [0.7, 0.75, 0.77],
            "long": [0.999, 1.0, 0.998, 0.999, 1.0],
        }
    )
    updates, parameters, seconds = demo_page.findings(table, KINDS)
    assert updates.startswith(
        "At equal updates, depth 16 reaches 82% of the goals and depth 4 9%: deeper is better here"
    )
    assert "for all 3 comparisons together" in updates
    assert "no difference found" in parameters
    assert "3 seeds would have found" in parameters
    assert "deeper is worse here (-0.18, 95 % interval -0.34 to -0.01" in seconds


def test_seeds_that_vary_too_much_can_show_no_difference():
    table = rows({kind.title: [0.0, 0.5, 1.0] for kind in KINDS})
    for sentence in demo_page.findings(table, KINDS):
        assert sentence.endswith("; 3 seeds vary too much to find any difference).")


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_seed_or_two_claim_nothing(seeds):
    table = rows({kind.title: [0.1 * n] * seeds for n, kind in enumerate(KINDS)})
    for sentence in demo_page.findings(table, KINDS):
        assert sentence.endswith(f"{'one seed' if seeds == 1 else '2 seeds'}, so this is a picture and no claim.")


def test_the_headline_and_the_price_say_what_the_verdicts_say():
    table = rows(
        {"shallow": [0.05, 0.1, 0.12], "deep": [0.8, 0.85, 0.81], "wide": [0.7, 0.75, 0.77], "long": [0.99] * 3}
    )
    comparisons = demo_page.compared(table, KINDS)
    assert demo_page.headline(table, KINDS, comparisons) == "Depth 16 reaches 82 % of its goals, depth 4: 9 %"
    assert demo_page.price(comparisons) == (
        "Depth pays for equal updates. No difference is found for equal parameters. "
        "Width or time pays more than depth for equal seconds."
    )
    one = rows({kind.title: [0.1 * n] for n, kind in enumerate(KINDS)})
    comparisons = demo_page.compared(one, KINDS)
    assert "too few seeds" in demo_page.headline(one, KINDS, comparisons)
    assert demo_page.price(comparisons) == ""
    same = rows({kind.title: [0.4, 0.5, 0.6] for kind in KINDS})
    assert demo_page.headline(same, KINDS, demo_page.compared(same, KINDS)) == (
        "Depth 16 reached 50 % of goals, depth 4: 50 %, a wider depth 4 of equal size: 50 %; "
        "3 seeds cannot tell 16 from 4"
    )


def test_an_ability_that_is_lost_again_is_none():
    assert demo_page.take_off([0, 0.1, 0.3, 0.5, 0.6]) == 2
    assert demo_page.take_off([0, 0.3, 0.0, 0.0, 0.6, 0.7]) == 1  # on average it keeps it
    assert demo_page.take_off([0, 0.3, 0.0, 0.0, 0.0, 0.0]) is None
    assert demo_page.take_off([0, 0.1, float("nan")]) is None


def test_the_wide_network_has_as_many_parameters_as_the_deep_one():
    import jax

    from crlviz.networks.config import NetworkConfig
    from crlviz.networks.residual import Actor, parameter_count

    counts = [
        parameter_count(jax.eval_shape(Actor(NetworkConfig(depth, width), 6, 2).init, jax.random.key(0)))
        for depth, width in ((demo.DEEP, demo.WIDTH), (demo.SHALLOW, demo.WIDE))
    ]
    assert counts[1] == pytest.approx(counts[0], rel=0.05)


@pytest.mark.slow
def test_curves_named_at_their_ends_beside_a_legend(tmp_path, open_page):
    """Over seconds the slow run crosses the place of the quick run's name. The browser must not complain."""
    names = ["long and quick", "long and slow"]
    curves = ([0, 0.1, 0.2, 0.3, 0.5], 1), ([0, 0.3, 0.5, 0.6, 0.9], 4)
    paths = [
        planted_run(tmp_path / name, *curve, critic__width=width)
        for name, curve, width in zip(names, curves, (8, 16), strict=True)
    ]
    drawn = demo_page.curves(run_data.compute(paths).assign_coords(group=("run", names)))
    charts.save(drawn, tmp_path / "curves.html")
    page = open_page(tmp_path / "curves.html")
    page.wait_for_selector(".mark-text.role-mark")
    page.wait_for_selector(".role-legend")


@pytest.mark.slow
def test_the_page_fits_any_window(tmp_path, monkeypatch, open_page):
    monkeypatch.setattr(demo, "ENV", "point_u_maze")
    kinds = [
        demo.Kind(name, f"depth {depth}, width {width}", depth, width, steps)
        for name, depth, width, steps in (("a", 4, 8, 280), ("b", 8, 8, 280), ("c", 4, 16, 280), ("d", 4, 8, 560))
    ]
    runs = [demo.Run(kind, 0, tmp_path / "runs") for kind in kinds]
    for kind, run in zip(kinds, runs, strict=True):
        shape = {
            f"{network}__{name}": getattr(kind, name) for network in ("actor", "critic") for name in ("depth", "width")
        }
        untrained_run(run.out, toy_config(env_steps=kind.env_steps, **shape), steps=(kind.env_steps,))
        plant_curve(run.out, [0, 0.4, 0.5])
    page = open_page(demo_page.report(runs, tmp_path, env="point_u_maze", quick=True))
    assert page.locator(".chart svg").count() == 3
    assert "depth 8" in page.locator("h1").inner_text().lower()
    page.locator("a[href='play.html']").click()
    assert page.locator("#agents button").all_inner_texts() == ["1 depth 4", "2 depth 8"]


@pytest.mark.slow
def test_demo_from_training_to_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "ENV", "point_u_maze")
    monkeypatch.setattr(demo, "ENV_STEPS", 150_000)
    monkeypatch.setattr(demo, "WIDTH", 8)
    monkeypatch.setattr(demo, "WIDE", 16)
    out = tmp_path / "demo"
    monkeypatch.setattr(sys, "argv", ["crlviz", "demo", "--quick", "--out", str(out)])
    cli.main()
    output = capsys.readouterr().out
    page = (out / "index.html").read_text()
    assert {path.name for path in (out / "runs").iterdir()} == {
        "depth4-seed0",
        "depth16-seed0",
        "depth4-wide-seed0",
    }
    for name in ("heatmaps.png", "curves.png", "efficiency.png", "heatmaps.nc", "results.csv", "film.gif"):
        assert (out / name).stat().st_size > 0, name
    assert "one seed" in page
    assert "one seed" in output
    assert "<script src=" not in page  # it is self-contained
    assert "crlviz train point_u_maze --depth 16 --width 8 --seed 0 --env-steps 150000" in page
    for score in pd.read_csv(out / "results.csv").score:
        assert f"{score:.2f}" in page

    # A full demo there keeps the finished runs, trains the others again, and adds the control for equal seconds.
    def networks():
        files = [path for path in (out / "runs").rglob("*.safetensors") if "long" not in str(path)]
        return {path: path.stat().st_mtime_ns for path in files}

    before = networks()
    newest = max((out / "runs" / "depth4-seed0" / "checkpoints").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(newest)
    monkeypatch.setattr(demo, "SEEDS", (0,))
    monkeypatch.setattr(sys, "argv", ["crlviz", "demo", "--out", str(out)])
    cli.main()
    assert "At equal seconds" in capsys.readouterr().out
    after = networks()
    assert after.keys() == before.keys()
    retrained = {path.relative_to(out / "runs").parts[0] for path in before if after[path] != before[path]}
    assert retrained == {"depth4-seed0"}


def test_a_demo_deletes_only_its_own_runs(toy_run, tmp_path):
    """A run with the same name that no demo made stays."""
    run = demo.Run(demo.Kind("depth4", "depth 4", 4, 8, 1000), 0, tmp_path / "runs")
    shutil.copytree(toy_run, run.out)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=r"depth4-seed0 was not made by this demo"):
        demo.train_all([run], "training")
    assert sorted(tmp_path.rglob("*")) == before
    # So does a run that the user put where a demo had started one.
    run.note()
    assert not run.is_made_here
    RunDirectory(run.out).write_config(RunDirectory(run.out).read_config() | {"command": ["crlviz", *run.arguments]})
    assert run.is_made_here


def test_a_failed_run_reports_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "ENV", "point_nowhere")
    run = demo.Run(demo.Kind("depth4", "depth 4", 4, 8, 1000), 0, tmp_path / "runs")
    with pytest.raises(
        CrlvizError, match=r"training depth 4, seed 0 failed: .*no environment is called 'point_nowhere'"
    ):
        demo.train_all([run], "training")
    assert not run.out.exists()
