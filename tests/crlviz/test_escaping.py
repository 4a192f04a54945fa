"""Text from files is shown and never interpreted, by a terminal or a browser."""

import json

import altair as alt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crlviz import charts, cli
from crlviz.checkpoints import checked_json
from crlviz.checkpoints.run_directory import RunDirectory, settings_digest
from crlviz.escaping import printable, script_json
from crlviz.interchange import inspection
from tests.helpers.toys import toy_config, untrained_run

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202etxt\nok   forged\r"
BREAKOUTS = ["</script><script>document.title='owned'</script>", "<!--<script>", "<!-- <SCRIPT ", "]]>", "</ScRiPt\n>"]


@given(st.text() | st.just(HOSTILE))
def test_printable_is_one_line_without_control_characters(text):
    shown = printable(text)
    assert len(shown) == len(text)
    assert all(ord(c) >= 32 and not 127 <= ord(c) < 160 for c in shown)
    assert [a for a, b in zip(shown, text, strict=True) if a != b] == ["?"] * sum(not c.isprintable() for c in text)


@given(st.recursive(st.text() | st.sampled_from(BREAKOUTS), lambda inner: st.dictionaries(st.text(), inner)))
def test_script_json_is_equal_json_without_a_less_than_sign(value):
    embedded = script_json(value)
    assert "<" not in embedded
    assert json.loads(embedded) == value


def _rewrite_config(run, config):
    """Write a run's config.json as an attacker would: with a valid checksum."""
    (run / "config.json").write_bytes(checked_json.encode(config))


def test_inspect_prints_no_control_characters(tmp_path):
    run = untrained_run(tmp_path / "run", toy_config())
    config = {name: value for name, value in RunDirectory(run).read_config().items() if name != "sha256"}
    more = {
        "versions": {"jax": HOSTILE},
        "device": HOSTILE,
        "git": [HOSTILE],
        "imported": {"notes": [HOSTILE], HOSTILE: 1},
    }
    more |= {"resumed": [{"env_steps": HOSTILE, "command": [HOSTILE]}], "command": [HOSTILE]}
    _rewrite_config(run, {**config, **more})
    shown = inspection.describe(run)
    assert set(shown) - {"\n"} == {c for c in shown if c.isprintable()}
    assert "\nok   forged" not in shown
    assert "owned" in shown


@pytest.mark.parametrize("where", ["algorithm", "env", "eval_env", "seed", "file"])
def test_names_from_files_reach_the_terminal_escaped(tmp_path, where, monkeypatch, capfd):
    run = untrained_run(tmp_path / "run", toy_config())
    config = {name: value for name, value in RunDirectory(run).read_config().items() if name != "sha256"}
    if where == "algorithm":
        config["algorithm"] = HOSTILE
    elif where != "file":
        config["config"][where] = HOSTILE
    _rewrite_config(run, config)
    checkpoint = run / "checkpoints" / "100"
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest.pop("sha256")
    if where == "file":
        manifest["files"][HOSTILE] = {"bytes": 1, "sha256": ""}
    if where != "algorithm":  # that of an unknown algorithm is not defined
        manifest["settings"] = settings_digest(config)
    (checkpoint / "manifest.json").write_bytes(checked_json.encode(manifest))
    arguments = ["inspect", str(run), *(["--verify"] if where == "file" else [])]
    monkeypatch.setattr("sys.argv", ["crlviz", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capfd.readouterr()
    assert ended.value.code == 1
    assert "\x1b" not in out + err
    assert "forged" not in [line.split()[-1] for line in (out + err).splitlines() if line.startswith("ok")]
    assert err.startswith("Error: ")


@pytest.mark.parametrize("text", BREAKOUTS[:2])
def test_a_chart_draws_hostile_labels_as_text(tmp_path, open_page, text):
    chart = alt.Chart({"values": [{"a": 1, "b": text}]}, title=text).mark_point().encode(x="a:Q", y="b:N")
    charts.save(chart, tmp_path / "chart.html")
    page = open_page(tmp_path / "chart.html")
    page.wait_for_selector("svg.marks")
    assert page.title() == text
    assert text in page.locator("svg.marks").text_content()
