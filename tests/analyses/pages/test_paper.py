"""The page of the paper's figures: supported figures, sweeps for the others, and figures that fail."""

import dataclasses
import re
import shutil
import sys
from pathlib import Path

import jax
import pandas as pd
import pytest

from analyses.common.runs import find
from analyses.pages import figures, paper, sweep_cost
from analyses.pages.figures import Figure
from crlviz import cli
from crlviz.agent import Agent
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError
from crlviz.networks.config import NetworkConfig
from crlviz.networks.residual import Actor, Critic, parameter_count
from tests.helpers.toys import planted_runs, toy_config, untrained_run


def a_run(path, depth: int, seconds: float = 10.0, **changes):
    """An untrained run with a metrics.csv that records ``seconds`` of training."""
    run = untrained_run(path, toy_config(actor__depth=depth, critic__depth=depth, **changes))
    rows = {"env_steps": [0, 100], "gradient_steps": [0, 10], "wall_seconds": [1, 2 + seconds]}
    rows |= {"train_seconds": [0, seconds], "success": [0.1, 0.5], "time_at_goal": [1.0, 5.0]}
    pd.DataFrame(rows).to_csv(run / "metrics.csv", index=False)
    return run


def toys_agent(depth: int, seed: int = 0, width: int = 8, layer_norm: bool = True, gamma: float = 0.99) -> Agent:
    """An agent without parameters, for tests that read only its config."""
    changes = {"seed": seed, "gamma": gamma} | {
        f"{network}__{name}": value
        for network in ("actor", "critic")
        for name, value in {"depth": depth, "width": width, "layer_norm": layer_norm}.items()
    }
    return Agent(dataclasses.asdict(toy_config(**changes)), {}, 100, 10, Path("none"))


@pytest.fixture(scope="module")
def depths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    for depth in (4, 8):
        run = a_run(folder / f"d{depth}", depth)
        config = RunDirectory(run).read_config()
        typed = ["crlviz", "train", "point_u_maze", "--depth", str(depth), "--width", "8", "--env-steps", "100"]
        RunDirectory(run).write_config(
            config | {"command": [*typed, "--set", "actor.residual=true", "--out", str(run)]}
        )
    return folder


@pytest.fixture(scope="module")
def drawn(depths, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "figures"
    before = sys.argv
    sys.argv = ["crlviz", "paper", str(depths), "--out", str(out), "--only", "1,6,8,9"]
    try:
        cli.main()
    finally:
        sys.argv = before
    return out


@pytest.mark.slow
def test_supported_figures_are_written_in_every_format(drawn):
    names = {path.name for path in drawn.iterdir()}
    wanted = {
        f"figure{number}-point_u_maze{ending}" for number in (1, 9) for ending in (".html", ".svg", ".pdf", ".png")
    }
    assert names == wanted | {"index.html"}
    assert (drawn / "figure9-point_u_maze.pdf").read_bytes().startswith(b"%PDF")
    assert (drawn / "figure1-point_u_maze.png").read_bytes().startswith(b"\x89PNG")
    assert "geodesic:" not in (drawn / "figure9-point_u_maze.svg").read_text()  # tiles for the mouse make it large
    assert "Click into the map" in (drawn / "figure9-point_u_maze.html").read_text()


def test_the_page_is_self_contained(drawn, open_page):
    opened = open_page(drawn / "index.html")
    assert opened.locator(".chart svg").count() == 2
    # Figures first, then what is missing.
    headings = opened.locator("h2").all_inner_texts()
    assert [heading.split(".")[0] for heading in headings] == ["Figure 1", "Figure 9", "Missing"]
    links = opened.locator("h3").first.locator("a").all_inner_texts()
    assert links == ["html", "svg", "pdf", "png"]
    rows = {row.split("\t")[0]: row for row in opened.locator("tr").all_inner_texts()}
    assert list(rows) == ["figure", "6", "8"]
    assert "crlviz sweep point_u_maze --width 8 --env-steps 100 --actor-depth 4,16 --critic-depth 4,16" in rows["6"]
    assert "--out runs/figure6" in rows["6"]
    assert re.search(r"about [\d.,]+ (min|h)", rows["6"])
    fed = "crlviz train point_u_maze --width 8 --env-steps 100 --depth {0} --learners 4,16 --seed 0-4 --out "
    for depth in (4, 16):
        assert f"{fed.format(depth)}'runs/figure8/depth{depth}-seed{{seed}}'" in rows["8"]


def test_a_figure_that_fails_does_not_stop_the_others(depths, tmp_path):
    def known_error(runs):
        raise CrlvizError("these runs are too few")

    def unknown_error(runs):
        raise ZeroDivisionError("division by zero")

    wanted = [
        Figure("1", "known?", draw=known_error),
        Figure("2", "unknown?", draw=unknown_error),
        next(figure for figure in figures.FIGURES if figure.number == "1"),
    ]
    entries = paper.draw(paper.group(find([depths])), tmp_path / "out", wanted)
    assert [entry.error for entry in entries] == ["these runs are too few", "ZeroDivisionError: division by zero", ""]
    assert entries[2].chart
    page = paper.write_index(entries, [depths], tmp_path / "out").read_text()
    assert "failed: these runs are too few" in re.sub(r"\s+", " ", page)


def test_runs_without_metrics_or_checkpoint_are_left_out(depths, tmp_path):
    """An imported run has no metrics.csv; a run that just started has no checkpoint."""
    folder = Path(shutil.copytree(depths, tmp_path / "runs"))
    untrained_run(folder / "imported", toy_config(seed=1))
    untrained_run(folder / "begun", toy_config(seed=2), steps=())
    with pytest.warns(UserWarning, match="begun holds no checkpoint yet"):
        [runs] = paper.group(find([folder]))
    assert len(runs.agents) == 3
    with pytest.warns(UserWarning, match="left out: .*imported has no metrics.csv"):
        drawn, missing = paper.draw([runs], tmp_path / "out", figures.choose("1,6"))
    assert drawn.chart
    [expected] = paper.draw(paper.group(find([depths])), tmp_path / "plain", figures.choose("6"))
    assert missing.hours == expected.hours  # from the two runs that recorded their training time
    alone = paper.group([folder / "imported"])
    [entry] = paper.draw(alone, tmp_path / "out", figures.choose("6"))
    assert (entry.time, entry.command[:12]) == ("", "crlviz sweep")
    assert "</code> about" not in paper.write_index([entry], [folder], tmp_path / "out").read_text()


def test_two_factors_must_vary_independently(tmp_path):
    grid = Figure("6", "which?", ("actor_depth", "critic_depth"), {})
    together = [a_run(tmp_path / f"d{depth}", depth) for depth in (4, 8)]
    assert "vary independently" in grid.missing(paper.group(together)[0])
    different = untrained_run(tmp_path / "different", toy_config(actor__depth=8, critic__depth=4))
    assert grid.missing(paper.group([*together, different])[0]) == ""


def test_over_depth_takes_runs_that_differ_only_in_depth_and_seed(tmp_path):
    kinds = [{"depth": depth, "seed": seed} for depth in (8, 4) for seed in (1, 0)]
    kinds += [{"depth": 4, "width": 16}, {"depth": 8, "seed": 2, "layer_norm": False}, {"depth": 16, "gamma": 0.9}]
    agents = [toys_agent(**kind) for kind in kinds]
    runs = figures.Runs([], agents)
    selected = [(agent.facts["depth"], agent.facts["seed"]) for agent in runs.over_depth]
    assert selected == [(4, 0), (4, 1), (8, 0), (8, 1)]
    assert [(agent.facts["depth"], agent.facts["seed"]) for agent in runs.one_a_depth] == [(4, 0), (8, 0)]


def test_over_depth_leaves_out_runs_with_other_settings():
    """A run that was trained longer or with another gamma must not enter a comparison of depth."""
    comparable = [toys_agent(depth) for depth in (4, 8)]
    longer = dataclasses.replace(toys_agent(16), env_steps=10_000)
    other = toys_agent(32)
    other = dataclasses.replace(other, config=other.config | {"gamma": 0.5})
    assert figures.Runs([], [*comparable, longer, other]).over_depth == comparable


def test_over_depth_prefers_the_full_network():
    ablated = [toys_agent(depth, seed, layer_norm=False) for depth in (4, 8, 16) for seed in (0, 1)]
    full = [toys_agent(depth) for depth in (4, 8)]
    assert figures.Runs([], [*ablated, *full]).over_depth == full
    assert figures.Runs([], [*ablated, full[0]]).over_depth == ablated


@pytest.mark.parametrize(("number", "ablations"), [("5", {"no residual"}), ("16", {"no LayerNorm", "relu"})])
def test_each_figure_shows_its_own_ablations(number, ablations, monkeypatch):
    networks = ("full network", "no residual", "no LayerNorm", "relu")
    rows = [{"depth": depth, "network": network, "score": 0.5} for depth in (4, 8) for network in networks]
    monkeypatch.setattr(figures.run_data, "collect", lambda paths: planted_runs(*rows))
    [figure] = figures.choose(number)
    rows = [row for rows in figure.draw(figures.Runs([], [])).to_dict()["datasets"].values() for row in rows]
    assert {row["line"] for row in rows if "line" in row} == {"full network"} | ablations


def test_missing_describes_what_the_runs_lack(depths, tmp_path):
    [runs] = paper.group(find([depths]))
    by_number = {figure.number: figure for figure in figures.FIGURES}
    assert by_number["1"].missing(runs) == ""
    assert by_number["7"].missing(runs) == "runs with several batch sizes"
    assert "at most three cells apart" in by_number["11"].missing(runs)
    assert by_number["13"].missing(runs) == "runs with several algorithms"
    assert by_number["15"].missing(runs) == "runs of cmd"
    assert (
        by_number["table 2"].missing(runs)
        == "runs with several networks with LayerNorm and with hyperspherical weights"
    )
    near = a_run(tmp_path / "near", 4, env="point_u_maze_gen_1f2f3f")
    assert by_number["11"].missing(paper.group([near])[0]) == "runs with several depths"


def test_runs_are_grouped_by_environment(depths, tmp_path):
    other = a_run(tmp_path / "other", 4, env="point_u2_maze")
    grouped = paper.group(find([depths, other]))
    assert [(runs.env.id, len(runs.paths)) for runs in grouped] == [("point_u_maze", 2), ("point_u2_maze", 1)]


def test_the_cost_is_extrapolated_linearly(tmp_path):
    """If seconds are exactly 3 + 0.001 * parameters * batch, the estimate is exact."""

    def parameters(depth: int, width: int) -> int:
        config = NetworkConfig(depth, width)
        networks = Actor(config, 6, 2), Critic(config, 4, 2, 2)
        return sum(parameter_count(jax.eval_shape(network.init, jax.random.key(0))) for network in networks)

    batch = toy_config().batch_size

    def seconds(depth: int, width: int = 8, times: int = 1) -> float:
        return 3 + 0.001 * parameters(depth, width) * batch * times

    [runs] = paper.group([a_run(tmp_path / f"d{depth}", depth, seconds(depth)) for depth in (4, 16)])
    figure = Figure("4", "?", sweep={"depth": "4,8", "width": "x1,x2"})
    measured = [seconds(4), seconds(16)]
    expected = 5 * sum(seconds(depth, width) for depth in (4, 8) for width in (8, 16)) / 3600
    assert sweep_cost.hours(figure, runs, measured) == pytest.approx(expected, rel=1e-4)
    fed = dataclasses.replace(figure, sweep={"depth": "4,8", "learners": "4,8"})
    alone = dataclasses.replace(figure, sweep={"depth": "4,8"})
    assert sweep_cost.hours(fed, runs, measured) == pytest.approx(3 * sweep_cost.hours(alone, runs, measured))
    batches = dataclasses.replace(figure, sweep={"depth": "4", "batch-size": "x1,x4", "ablate": "residual"})
    assert sweep_cost.hours(batches, runs, measured) == pytest.approx(
        2 * 5 * (seconds(4) + seconds(4, times=4)) / 3600, rel=1e-4
    )
    assert "--depth 4,8 --width 8,16" in sweep_cost.command(figure, runs, [])
    # A run with ten times the steps took ten times as long; the sweep has the steps of the first run.
    longer = figures.Runs(runs.paths, [runs.agents[0], dataclasses.replace(runs.agents[1], env_steps=1000)])
    assert sweep_cost.hours(figure, longer, [measured[0], 10 * measured[1]]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{empty}"], 1, "is not a run directory"),
        (["{runs}", "--only", "2"], 2, "--only 2: the figures to choose from are 1, 3"),
        (["{runs}", "--only", "8"], 1, "support no figure"),
    ],
)
def test_mistakes(depths, tmp_path, monkeypatch, capsys, arguments, code, words):
    (tmp_path / "empty").mkdir()
    formatted = [argument.format(empty=tmp_path / "empty", runs=depths) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["crlviz", "paper", *formatted, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == code
    assert words in capsys.readouterr().err


def test_a_page_names_runs_whose_paths_the_locale_cannot_spell(tmp_path):
    index = paper.write_index([], [Path("l\udcc3\udca4ufe")], tmp_path)  # as Python reads an umlaut in the C locale
    assert "l??ufe" in index.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def two_algorithms(depths, tmp_path_factory):
    """Runs of contrastive RL and of cloning at depths 4 and 8; of cloning, also at depth 12."""
    folder = tmp_path_factory.mktemp("algorithms")
    cloned = [a_run(folder / f"gcbc{depth}", depth, seconds=depth, algorithm="gcbc") for depth in (4, 8, 12)]
    return [*cloned, *find([depths])]


def test_a_figure_is_about_one_algorithm_or_compares_them(two_algorithms, tmp_path):
    [runs] = paper.group(two_algorithms)
    assert list(runs.by_algorithm) == ["crl", "gcbc"]
    by_number = {figure.number: figure for figure in figures.FIGURES}
    for number, algorithms in {"1": {"crl"}, "10": {"crl"}, "13": {"crl", "gcbc"}, "table 5": {"crl", "gcbc"}}.items():
        assert set(by_number[number].chosen(runs).by_algorithm) == algorithms
    cloned = runs.by_algorithm["gcbc"]
    assert by_number["1"].chosen(cloned) is not None
    assert by_number["10"].missing(by_number["10"].chosen(cloned)) == "runs of an algorithm with embeddings phi and psi"
    wanted = figures.choose("1,13,15,table 6,table5")
    assert [figure.name for figure in wanted] == ["figure1", "figure13", "figure15", "table6", "table5"]
    entries = {entry.figure.number: entry for entry in paper.draw([runs], tmp_path / "out", wanted)}
    assert {number for number, entry in entries.items() if entry.chart} == {"1", "13", "table 5", "table 6"}
    assert (entries["1"].algorithm, entries["13"].algorithm) == ("crl", "")
    assert entries["table 5"].files[0].startswith("table5-point_u_maze")
    assert "--algorithm cmd --depth 4,8,16,32" in entries["15"].command
    page = paper.write_index(list(entries.values()), [Path("runs")], tmp_path / "out").read_text()
    assert ">Table 5. How long" in page
    assert "point_u_maze, crl: " in page


def test_the_time_of_a_sweep_is_estimated_for_each_algorithm_by_itself(two_algorithms):
    """Seconds of cloning are its depth in this test, those of contrastive RL are always 10."""
    [runs] = paper.group(two_algorithms)
    seconds = [float(agent.facts["depth"]) if agent.facts["algorithm"] == "gcbc" else 10.0 for agent in runs.agents]
    figure = Figure("1", "?", sweep={"algorithm": "gcbc", "depth": "4,12"})
    assert sweep_cost.hours(figure, runs, seconds) == pytest.approx(5 * (4 + 12) / 3600, rel=0.02)
    figure = Figure("1", "?", sweep={"algorithm": "crl", "depth": "4,8"})
    assert sweep_cost.hours(figure, runs, seconds) == pytest.approx(5 * (10 + 10) / 3600, rel=0.02)


def test_a_command_keeps_only_settings_of_the_algorithms_that_it_trains(two_algorithms):
    [runs] = paper.group(two_algorithms)
    typed = ["crlviz", "train", "point_u_maze", "--set", "crl.learning_rate=1", "--set", "gcbc.learning_rate=2"]
    [thirteen, fifteen] = figures.choose("13,15")
    both = sweep_cost.command(thirteen, runs, typed)
    assert "crl.learning_rate=1" in both
    assert "gcbc.learning_rate=2" in both
    assert "learning_rate" not in sweep_cost.command(fifteen, runs, typed)
