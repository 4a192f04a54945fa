"""The command as a subprocess in unfavorable environments: missing devices, shadowed modules."""

import contextlib
import os
import subprocess
import sys

import jax
import pytest
import xarray as xr

from crlviz.processes import process_pool


@pytest.mark.parametrize("platform", ["cuda", pytest.param("nonsense", marks=pytest.mark.slow)])
def test_a_missing_device_is_one_sentence(toy_run, tmp_path, platform):
    if platform == "cuda" and jax.default_backend() != "cpu":
        pytest.skip("this machine has a GPU")
    done = subprocess.run(
        [sys.executable, "-m", "crlviz", "norms", toy_run, "--out", tmp_path / "norms.json"],
        env={**os.environ, "JAX_PLATFORMS": platform},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: jax finds no device of JAX_PLATFORMS={platform} (")
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def shadowing(tmp_path):
    """A directory of modules that shadow our packages and our dependencies."""
    for name in ("analyses", "training", "click", "numpy", "jax"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('imported {name} from the working directory')")
    return tmp_path


def test_nothing_is_imported_from_the_working_directory(shadowing):
    def run(*arguments, **environment):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=shadowing,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    assert "Example: crlviz train" in run("-m", "crlviz", "train", "--help")
    assert "Example: crlviz heatmap" in run("-m", "crlviz", "heatmap", "--help")
    (job,) = [process_pool.Job(("train", "--help"), shadowing / "logs" / "log.txt")]
    with contextlib.chdir(shadowing):
        assert [code for _, ended in process_pool.run([job], 1, poll=0.05) for _, code in ended] == [0]
    for name in ("click", "numpy", "jax"):
        (shadowing / f"{name}.py").unlink()
    # With PYTHONPATH set by the user, our own packages still win, and `import crlviz` warns of the shadowing files.
    assert "Example: crlviz train" in run("-P", "-m", "crlviz", "train", "--help", PYTHONPATH=str(shadowing))
    warning = run("-c", "import crlviz")
    for name in ("analyses", "training"):
        assert f"import {name} gives {shadowing / name}.py here, not crlviz's own: rename that file" in warning


def test_a_data_set_is_saved_where_the_locale_cannot_spell_the_path(tmp_path):
    code = "import sys, xarray as xr; from crlviz import datasets\n"
    code += "datasets.save(xr.Dataset({'a': ('x', [1.5, 2.5])}, attrs={'who': 'me'}), sys.argv[1])"
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0"}
    out = tmp_path / "l\u00e4ufe.nc"
    subprocess.run([sys.executable, "-c", code, out], env={**os.environ, **plain}, check=True)
    with xr.open_dataset(out) as read:
        assert (read.a.values.tolist(), read.attrs) == ([1.5, 2.5], {"who": "me"})


@pytest.mark.slow
def test_every_body_is_imported_whatever_mujoco_gl_says():
    """Each in an order in which no other has imported MuJoCo before: one process a body would be slow."""
    code = "import sys\nfrom crlviz import envs\nenvs.env_class(sys.argv[1])\nprint('imported')"
    for body in ("humanoid", "pusher_easy", "arm_reach"):  # of brax, of brax alone, of MJX
        command = [sys.executable, "-c", code, body]
        done = subprocess.run(
            command, env={**os.environ, "MUJOCO_GL": "nonsense"}, capture_output=True, text=True, check=False
        )
        assert done.stdout == "imported\n", done.stderr
