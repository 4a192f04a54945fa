"""The command line: every verb, and the one-sentence message of every user error."""

import re
import subprocess
import sys
import time
from pathlib import Path

import click
import jax
import pytest

from crlviz import cli
from tests.helpers import ROOT
from tests.helpers.command import error_of


def test_help_lists_every_verb_and_is_fast():
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "crlviz", "--help"], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
    for verb in cli.VERBS:
        assert f"  {verb} " in done.stdout
    # The target is 0.3 s on an idle machine. This limit allows for load, but importing jax would still exceed it.
    assert min(seconds) < 0.6


def test_help_imports_no_numerical_package():
    code = "import sys, crlviz.cli; sys.argv = ['crlviz', '--help']\ntry: crlviz.cli.main()\nexcept SystemExit: pass\n"
    code += "print([m for m in ('jax', 'numpy', 'flax', 'brax', 'altair', 'xarray') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "out of memory (of this machine); a smaller --batch-size"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: trying to allocate 8 bytes.\nMore"),
            "(RESOURCE_EXHAUSTED: trying to allocate",
        ),
        (RuntimeError("NetCDF: HDF error"), "RuntimeError: NetCDF: HDF error (crlviz --debug VERB ... shows where)"),
        (ValueError(), "ValueError: no message (crlviz --debug"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_any_exception_gives_one_sentence(crlviz, monkeypatch, error, words):
    def fail(*_):
        raise error

    monkeypatch.setattr("crlviz.rendering.envs_command.table", fail)
    assert words in error_of(crlviz("envs"), 1)
    code, _, err = crlviz("--debug", "envs")
    assert code == 1
    assert "Traceback" in err


@pytest.mark.parametrize(
    ("env", "preset", "platforms", "warns"),
    [
        ("humanoid", None, "", True),
        ("humanoid", "smoke", "", False),
        ("humanoid", None, "cpu", False),
        ("point_u_maze", None, "", False),
    ],
)
def test_gpu_settings_on_a_cpu_warn(crlviz, tmp_path, monkeypatch, env, preset, platforms, warns):
    from training import trainer

    monkeypatch.setattr(trainer, "train", lambda config, out, **_: out)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    options = ["--preset", preset] if preset else []
    code, _, err = crlviz("train", env, *options, "--out", tmp_path / "run")
    assert (code, "jax finds no GPU here" in err) == (0, warns)


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_each_verbs_help_has_an_example(crlviz, verb):
    code, out, _ = crlviz(verb, "--help")
    assert code == 0
    assert f"Example: crlviz {verb}" in out


def test_debug_shows_the_traceback(crlviz, tmp_path):
    code, _, err = crlviz("--debug", "inspect", tmp_path / "nothing")
    assert code == 1
    assert "Traceback" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["heatmp"], "no verb is called 'heatmp' (did you mean heatmap?); crlviz --help lists them"),
        (["qqq"], "no verb is called 'qqq'; crlviz --help lists them"),
        (["train", "point_u_maze", "--depht", 4], "--depth"),
        (["train", "point_u_maze", "--set", "gama=0.9", "--out", "run"], "'gama' (did you mean gamma?); known are"),
        (["train", "point_u_maze", "--set", "crl.learning_rat=1", "--out", "run"], "(did you mean crl.learning_rate"),
        (["scaling", "runs", "--metric", "sucess"], "'success'"),
        (
            ["train", "point_u_maze", "--set", "explore=best", "--out", "run"],
            "'best' is not a way to choose actions; take",
        ),
        (["heatmap"], "Missing argument 'CKPT...'; see crlviz heatmap --help"),
    ],
)
def test_misspelled_and_missing_arguments_get_one_sentence(crlviz, arguments, words):
    assert words in error_of(crlviz(*arguments), 2)


OLD = [
    ("stitch runs --cells 9", "stitch runs --max-cells 9"),
    ("stitch runs --sampled --show=time_at_goal", "stitch runs --policy=sample --metric time_at_goal"),
    ("stitch runs --over meters", "stitch runs --x-axis meters"),
    ("scaling runs --over train_seconds", "scaling runs --x-axis train_seconds"),
    ("heatmap runs --goals 3 --checkpoints=2", "heatmap runs --max-goals 3 --max-checkpoints=2"),
    ("rollout runs --sampled", "rollout runs --policy=sample"),
    ("behavior runs --sampled", "behavior runs --policy=sample"),
    ("eval runs --stochastic", "eval runs --policy=sample"),
    ("stitch runs --deterministic", "stitch runs --policy=mean"),
    ("bench --seeds 2 --twin-depth=4", "bench --parallel-seeds 2 --reference-depth=4"),
]


@pytest.mark.parametrize(("old", "new"), OLD)
def test_old_names_of_options_mean_the_new_ones(capsys, old, new):
    def parse(line: str) -> dict:
        verb, *words = line.split()
        return cli.cli.get_command(click.Context(cli.cli), verb).make_context(verb, words).params

    expected = parse(new)
    assert capsys.readouterr().err == ""
    assert parse(old) == expected
    hints = [line.split(" is called ") for line in capsys.readouterr().err.splitlines()]
    assert [hint[0] for hint in hints] == re.findall(r"--[a-z-]+", old)
    assert [hint[1] for hint in hints] == [f"{option} now" for option in re.findall(r"--policy=[a-z]+|--[a-z-]+", new)]


def test_help_shows_no_old_name(crlviz):
    for verb in {line.split()[0] for line, _ in OLD}:
        _, out, _ = crlviz(verb, "--help")
        shown = set(re.findall(r"(?<![\w-])--[a-z-]+", out.partition("Options:")[2]))
        old = cli.cli.get_command(click.Context(cli.cli), verb).old_options
        assert old
        assert not shown & set(old)
        assert {new.partition("=")[0] for new in old.values()} <= shown


def test_a_setting_known_elsewhere_is_named(crlviz):
    words = error_of(crlviz("train", "point_u_maze", "--set", "discounting=0.9"), 2)
    assert "no setting is called 'discounting' (it is gamma here)" in words


def test_without_a_verb_the_help_is_printed(crlviz):
    code, out, err = crlviz()
    assert code == 2
    assert "Start with: crlviz demo" in out + err


CHECKED = {
    "heatmap": [["--scale", "log"], ["--resolution", "0"], ["--action", "jump"], ["--goal", "nan,1"]],
    "stitch": [["--metric", "all"], ["--x-axis", "miles"], ["--episodes", "0"]],
    "embed": [["--trajectory", "none"], ["--episodes", "0"]],
    "norms": [["--episodes", "0"]],
    "calibrate": [["--episodes", "0"]],
    "behavior": [["--episodes", "-1"]],
    "rollout": [["--size", "1x1"], ["--size", "big"], ["--fps", "0"], ["--steps", "0"], ["--episodes", "0"]],
    "export": [],
    "bench": [],
    "envs": [["--size", "1x1"]],
    "scaling": [["--x-axis", "miles"]],
    "efficiency": [],
}


@pytest.mark.parametrize("verb", list(CHECKED))
def test_options_are_checked_before_any_work(crlviz, tmp_path, monkeypatch, verb):
    """Nothing is loaded, measured or rendered if the output could not be drawn or written."""
    monkeypatch.setattr("crlviz.agent.load", lambda _: pytest.fail("a checkpoint was loaded"))
    monkeypatch.setattr("training.bench.measuring.measure", lambda **_: pytest.fail("something was measured"))
    monkeypatch.setattr("crlviz.rendering.env_picture.draw", lambda *_: pytest.fail("something was drawn"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "dir.html").mkdir()
    ending = {"rollout": "mp4", "export": "onnx", "envs": "png"}.get(verb, "svg")
    arguments = {"bench": [], "envs": ["point_u_maze"]}.get(verb, [tmp_path])
    faults = {f"missing/p.{ending}": "there is no directory missing", f"file/p.{ending}": "it is a file"}
    for name, words in (faults | {"p.txt": "p.txt"}).items():
        assert words in error_of(crlviz(verb, *arguments, "--out", name), 2)
    for options in CHECKED[verb]:
        error_of(crlviz(verb, *arguments, *options, "--out", f"p.{ending}"), 2)
    if ending == "svg":
        assert "it is a directory" in error_of(crlviz(verb, *arguments, "--out", "dir.html"), 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dir.html", "file"]


def test_a_directory_that_is_not_writable_is_refused_before_any_work(crlviz, tmp_path, monkeypatch):
    """Uses a kernel directory, where even root cannot create files."""
    monkeypatch.setattr("crlviz.agent.load", lambda _: pytest.fail("a checkpoint was loaded"))
    where = Path("/proc/self/fd") if Path("/proc/self/fd").is_dir() else Path("/dev")
    assert "cannot write" in error_of(crlviz("norms", tmp_path, "--out", where / "p.svg"), 1)


def test_python_m_crlviz_is_the_command():
    done = subprocess.run([sys.executable, "-m", "crlviz", "--version"], capture_output=True, text=True, check=True)
    import crlviz as package

    assert package.__version__ in done.stdout
    assert Path(package.__file__).is_file()


def test_a_closed_stdout_pipe_does_not_end_the_command(tmp_path):
    """With ``| head -1``, files written afterwards are still written."""
    command = [sys.executable, "-m", "crlviz", "scaling", "examples/depth4", "--out", str(tmp_path / "table.md")]
    done = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    done.stdout.close()
    assert done.wait(120) == 0
    assert "| task |" in (tmp_path / "table.md").read_text()
