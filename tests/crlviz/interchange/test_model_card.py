"""Model cards: read by a YAML and a Markdown parser, their code run, and their scores computed again."""

import dataclasses
import re

import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt

import crlviz as library
from crlviz.errors import UsageError
from crlviz.interchange import model_card
from crlviz.interchange.exporting import export
from tests.helpers.toys import plant_curve, planted_run, toy_config, untrained_run


def _parts(card):
    """The front matter as YAML reads it, and the rest as HTML."""
    _, front, rest = card.split("---\n", 2)
    return yaml.safe_load(front), MarkdownIt("commonmark", {"html": True}).enable("table").render(rest)


def _cells(html):
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    return [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[dh]>(.*?)</t[dh]>", row)] for row in rows]


@pytest.mark.parametrize("algorithm", ["crl", "td3+her"])
def test_its_code_runs_and_gives_the_agents_action(tmp_path, monkeypatch, algorithm):
    agent = library.load(untrained_run(tmp_path / "run", toy_config(algorithm=algorithm)))
    out = tmp_path / "out it's"
    out.mkdir()
    endings = [".safetensors", ".onnx"] if algorithm == "crl" else [".safetensors"]
    for ending in endings:
        files = export(agent, out / f"agent{ending}", card=True)
        assert files[-1] == out / "README.md"
    codes = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(codes) == len(endings)
    monkeypatch.chdir(out)
    for code in codes:
        names = {}
        exec(code, names)
        expected = agent.act(np.zeros((1, 6), np.float32))
        np.testing.assert_allclose(names["action"], expected, rtol=1e-5, atol=1e-6)


def test_scores_are_those_of_the_seeds_that_differ_in_nothing_else(tmp_path):
    curves = {0: np.linspace(0, 1, 11), 1: [0.2] * 11, 2: [0.9] * 11}
    for seed, curve in curves.items():
        planted_run(tmp_path / f"seed{seed}", curve, seed=seed, env_steps=1000)
    planted_run(tmp_path / "other", [0.5] * 11, seed=3, gamma=0.9, env_steps=1000)
    plant_curve(tmp_path / "seed2", [0.9] * 5)  # it is not there yet
    (tmp_path / "seed1" / "note").mkdir()
    agent = library.load(tmp_path / "seed0")
    assert model_card.seeds_scores(agent) == {0: pytest.approx((0.8, 16)), 1: pytest.approx((0.2, 4))}
    front, html = _parts(model_card.write(agent, tmp_path / "agent.onnx"))
    assert front["library_name"] == "crlviz"
    assert {"reinforcement-learning", "crl", "point_u_maze"} <= set(front["tags"])
    assert "license" not in front
    metrics = front["model-index"][0]["results"][0]["metrics"]
    assert [(metric["type"], metric["value"]) for metric in metrics] == [("success", 0.8), ("time_at_goal", 16)]
    cells = _cells(html)
    assert ["0 (this agent)", "0.800", "16.0"] in cells
    assert ["mean", "0.500", "10.0"] in cells
    assert ["trained for", "1,000 environment steps, 100 updates of 8 rows"] in cells
    assert ["state, goal, action", "4, 2, 2 numbers"] in cells


def test_what_a_file_says_cannot_leave_its_cell(tmp_path, toy_agent):
    evil = "`<script>alert(1)</script>` | x |\x1b[2J\n\n# big --- \u202e\"'"
    config = toy_agent.config | {"precision": evil, "layout": ["#####", evil]}
    agent = dataclasses.replace(toy_agent, config=config)
    agent.__dict__["env"] = toy_agent.env  # it was made before its config was changed
    agent.__dict__["facts"] = toy_agent.facts
    front, html = _parts(model_card.write(agent, tmp_path / "agent.onnx"))
    assert front["library_name"] == "crlviz"
    assert "<script>" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert html.count("<h1>") == 1
    (cell,) = [row for row in _cells(html) if row[0] == "precision"]
    assert len(cell) == 2
    assert "alert(1)" in cell[1]
    for text in ("a_b*c*", "<b>", "[x](y)", "a|b", "`c`"):
        assert MarkdownIt().renderInline(model_card._text(text)) == text.replace("<", "&lt;").replace(">", "&gt;")


def test_a_run_without_a_learning_curve_has_no_scores(tmp_path):
    agent = library.load(untrained_run(tmp_path / "run"))
    front, html = _parts(model_card.write(agent, tmp_path / "agent.onnx"))
    assert "model-index" not in front
    assert "None are known" in html
    assert "Nothing is known of its scores." in html


def test_a_readme_of_something_else_stays(crlviz, tmp_path, toy_run):
    readme = tmp_path / "README.md"
    readme.write_text("# My project\n")
    code, _, err = crlviz("export", toy_run, "--out", tmp_path / "agent.safetensors", "--card")
    assert code == 2
    assert "README.md is not a model card of crlviz and stays as it is; export into another directory" in err
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert readme.read_text() == "# My project\n"
    with pytest.raises(UsageError, match="stays as it is"):
        export(library.load(toy_run), tmp_path / "agent.safetensors", card=True)
    readme.unlink()
    for _ in range(2):  # its own it writes anew
        code, out, _ = crlviz("export", toy_run, "--out", tmp_path / "agent.safetensors", "--card")
        assert (code, out.splitlines()[-1]) == (0, f"wrote {readme}")


def test_what_the_code_of_an_older_card_imports_is_still_there():
    from crlviz.algorithms.base import Sizes
    from crlviz.networks.residual import NetworkConfig

    assert (Sizes.__module__, NetworkConfig.__module__) == ("crlviz.algorithms.batches", "crlviz.networks.config")
