"""Titles that state a claim, and the options for print that every verb with a chart has."""

import altair as alt
import click
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner

from analyses.common import claims, outputs
from crlviz import charts

LOW, HIGH = [0.1, 0.11, 0.12], [0.9, 0.88, 0.91]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"depth 4": LOW, "depth 16": HIGH}, "Depth 16 reaches 90 % of its goals, against 11 % (depth 4)"),
        ({"depth 4": HIGH, "depth 16": LOW}, "Depth 4 reaches 90 % of its goals, against 11 % (depth 16)"),
        (
            {"depth 4": [0.1, 0.9, 0.5], "depth 8": [0, 0, 0], "depth 16": [0.9, 0.2, 0.7]},
            "Goals reached: 60 % (depth 16), 50 % (depth 4); 3 seeds are too few to tell",
        ),
        ({"depth 4": [0.1], "depth 16": [0.9]}, "Goals reached: 90 % (depth 16), 10 % (depth 4)"),
        ({"depth 4": [0.1, 0.1], "depth 16": [0.9, 0.9]}, "Goals reached: 90 % (depth 16), 10 % (depth 4)"),
        ({"depth 4": [float("nan")]}, "Goals reached: none was measured"),
    ],
)
def test_a_title_claims_only_what_the_seeds_tell(scores, expected):
    assert claims.of_metric(scores, "success") == expected


def test_seeds_without_a_score_are_named():
    nan = float("nan")
    assert claims.of_metric({"depth 4": [0.1, nan, 0.3], "depth 16": HIGH}, "success") == (
        "Goals reached: 90 % (depth 16), 20 % (depth 4); depth 4: 2 of 3 seeds, too few seeds to compare"
    )
    told = claims.of_metric({"depth 4": [*LOW, nan], "depth 16": HIGH}, "success")
    assert told == "Depth 16 reaches 90 % of its goals, against 11 % (depth 4); depth 4: 3 of 4 seeds"


def test_seeds_that_could_not_find_any_difference_are_too_few():
    wide = [0.0, 0.5, 1.0]  # a share can not differ by as much as these seeds would need
    told = claims.of_metric({"depth 4": wide, "depth 16": [0.1, 0.6, 1.0]}, "success")
    assert told.endswith("; 3 seeds are too few to tell")


def test_more_comparisons_need_more():
    scores = {"depth 4": [0.3, 0.35, 0.4], "depth 16": [0.6, 0.65, 0.7]}
    assert claims.of_metric(scores, "success").startswith("Depth 16 reaches")
    assert claims.of_metric(scores, "success", comparisons=20).endswith("3 seeds are too few to tell")
    assert claims.of_metric(scores, "time_at_goal", comparisons=20).endswith("3 seeds cannot tell them apart")
    few = claims.of_metric(scores, "time_at_goal", comparisons=20, longest=1.0)
    assert few.endswith("3 seeds are too few to tell")
    words = claims.of_metric(scores, "time_at_goal", where="at depth 8")
    assert words.startswith("Depth 16 stays at its goal for 0.65 steps at depth 8, against 0.35 (depth 4)")


@click.command()
@outputs.out("drawn.svg")
def drawing(out):
    @charts.self_contained
    def plot():
        panel = alt.Chart(pd.DataFrame({"a": [1, 2]})).mark_point().encode(x="a:Q")
        return charts.claimed(alt.hconcat(panel), "One is less than two")

    outputs.write(out, xr.Dataset(), plot)


def test_the_options_for_print(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = CliRunner()

    def drawn(*arguments):
        result = run.invoke(drawing, arguments)
        assert result.exit_code == 0, result.output
        return (tmp_path / "drawn.svg").read_text()

    assert "One is less than two" in drawn()
    assert 'width="17cm"' in drawn("--style", "paper")
    assert 'width="9cm"' in drawn("--width-cm", "9", "--style", "paper")  # in any order
    assert "One is less" not in drawn("--no-title")
    assert charts.STYLES["notebook"] == charts.style()  # the options end with their command
    assert run.invoke(drawing, ["--style", "loud"]).exit_code == 2
    assert "must be above 0" in str(run.invoke(drawing, ["--width-cm", "-1"]).exception)


@pytest.mark.parametrize("verb", ["eval", "heatmap", "stitch", "embed", "norms", "scaling", "efficiency", "behavior"])
def test_every_verb_with_a_chart_has_them(verb, crlviz):
    code, text, _ = crlviz(verb, "--help")
    assert code == 0
    assert all(option in text for option in ("--style", "--width-cm", "--font-size", "--no-title"))
