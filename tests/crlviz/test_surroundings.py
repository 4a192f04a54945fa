"""The command in its own process, in awkward environments: missing devices, shadowed module names."""

import contextlib
import os
import subprocess
import sys

import jax
import pytest

from crlviz.processes import process_pool


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_missing_device_gets_one_sentence(toy_run, tmp_path, platform):
    if platform == "cuda" and jax.default_backend() != "cpu":
        pytest.skip("there is a GPU")
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
def taken(tmp_path):
    """A directory with modules named like crlviz's packages and its dependencies."""
    for name in ("analyses", "training", "click", "numpy", "jax"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('imported {name} from the working directory')")
    return tmp_path


def test_nothing_is_imported_from_the_working_directory(taken):
    def run(*arguments, **environment):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=taken,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    assert "Example: crlviz train" in run("-m", "crlviz", "train", "--help")
    assert "Example: crlviz heatmap" in run("-m", "crlviz", "heatmap", "--help")
    (job,) = [process_pool.Job(("train", "--help"), taken / "logs" / "log.txt")]
    with contextlib.chdir(taken):
        assert [code for _, ended in process_pool.run([job], 1, poll=0.05) for _, code in ended] == [0]
    for name in ("click", "numpy", "jax"):
        (taken / f"{name}.py").unlink()
    # With that directory on PYTHONPATH, the command still imports its own packages, and a notebook gets a message.
    assert "Example: crlviz train" in run("-P", "-m", "crlviz", "train", "--help", PYTHONPATH=str(taken))
    told = run("-c", "import crlviz")
    for name in ("analyses", "training"):
        assert f"import {name} gives {taken / name}.py here, not crlviz's own: rename that file" in told
