"""Plans for a GPU that this machine lacks: what the real compiler makes of real programs, where it is installed."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from crlviz.cli import cli
from crlviz.errors import CrlvizError, UsageError
from training.bench import cards, device_programs
from training.bench.timing import Case

SMALL = ["point_u_maze", "--preset", "smoke", "--set", "updates=7"]
# Kernels that an update launches at each depth, at most: width 256, batch 512, humanoid; fused path and plain path.
BOUNDS = {4: (150, 350), 64: (150, 5_400), 256: (150, 20_500)}


def _has_wheels() -> bool:
    try:
        device_programs.check_wheels()
    except UsageError:
        return False
    return True


# What the compiler makes of a program for a GPU is measured as in use.
pytestmark = pytest.mark.usefixtures("optimized")
needs_wheels = pytest.mark.skipif(not _has_wheels(), reason="needs jax's CUDA wheels: pip install 'crlviz[cuda13]'")


@pytest.mark.skipif(_has_wheels(), reason="the extra is installed")
@pytest.mark.parametrize("command", [["plan", *SMALL], ["bench"]])
def test_without_the_extra_one_sentence_names_it(command):
    """In a real process: nothing of jax is imported before."""
    ran = subprocess.run(
        [sys.executable, "-m", "crlviz", *command, "--device", "h100"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "pip install 'crlviz[cuda13]'" in ran.stderr


def _child(monkeypatch, line: str) -> None:
    """Let the process that compiles be one that runs this line of Python."""
    run = subprocess.run

    def instead(arguments, **options):
        return run([sys.executable, "-c", line], **options)

    monkeypatch.setattr(device_programs, "check_wheels", lambda: None)
    monkeypatch.setattr(device_programs.subprocess, "run", instead)


@pytest.mark.parametrize(
    ("line", "error", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", CrlvizError, "ended with code -9"),
        ("print('noise')", CrlvizError, "ended with code 0"),
        ('print(\'{"error": "too small", "usage": true}\')', UsageError, "too small"),
        ('print(\'{"error": "too large", "usage": false}\')', CrlvizError, "too large"),
    ],
)
def test_an_error_of_the_other_process_is_one_sentence(monkeypatch, line, error, words):
    _child(monkeypatch, line)
    with pytest.raises(error, match=words) as raised:
        device_programs.updates("point_u_maze", [], cards.read("h100"))
    assert type(raised.value) is error


def test_measuring_this_machine_does_not_go_with_another_card():
    ran = CliRunner().invoke(cli, ["plan", *SMALL, "--device", "h100", "--measure"])
    assert isinstance(ran.exception, UsageError)


@needs_wheels
@pytest.mark.slow
def test_the_plan_of_a_run_on_a_card_that_is_not_here(tmp_path):
    """Twice the steps of a training step launch twice the kernels; the state has the size that it has on a CPU."""
    plans = {}
    for unroll in (25, 50):
        file = tmp_path / f"{unroll}.json"
        arguments = [*SMALL, "--device", "h100", "--set", f"unroll={unroll}", "--json", str(file)]
        ran = CliRunner().invoke(cli, ["plan", *arguments], catch_exceptions=False)
        plans[unroll] = json.loads(file.read_text())
        assert "compiled for NVIDIA H100 80GB HBM3" in ran.output
        assert ran.output.rstrip().endswith("It fits.")
    short, long = (plans[unroll]["programs"] for unroll in (25, 50))
    assert long["collect"]["kernels"] == pytest.approx(2 * short["collect"]["kernels"], rel=0.02)
    assert 0 < short["collect"]["physics"] < short["collect"]["kernels"]
    assert short["collect"]["physics"] * 2 == long["collect"]["physics"]
    assert 7 * short["update"]["kernels"] < short["learn"]["kernels"] < 9 * short["update"]["kernels"]
    assert all(program.get("waits", 0) == 0 for program in short.values())
    here = CliRunner().invoke(cli, ["plan", *SMALL, "--no-measure", "--json", str(tmp_path / "cpu.json")])
    assert here.exit_code == 0
    on_cpu = json.loads((tmp_path / "cpu.json").read_text())
    for part in ("parameters", "optimizer", "environments", "saving"):
        assert plans[25]["memory"][part] == on_cpu["memory"][part]


@needs_wheels
@pytest.mark.slow
def test_an_update_launches_no_more_kernels_than_it_may():
    cases = [
        {"depth": depth, "width": 256, "batch_size": 512, "remat": False, "precision": "float32", "reference": False}
        for depth in BOUNDS
    ]
    found = device_programs.updates("humanoid", cases, cards.read("h100"))
    for depth, each in zip(BOUNDS, found, strict=True):
        for kind, bound in zip(("fused", "plain"), BOUNDS[depth], strict=True):
            assert each[kind]["kernels"] <= bound, (depth, kind, each[kind]["kernels"])


@needs_wheels
@pytest.mark.slow
@pytest.mark.parametrize("name", cards.names())
def test_the_compiler_takes_every_description(name):
    case = {"depth": 4, "width": 32, "batch_size": 32, "remat": False, "precision": "bfloat16", "reference": True}
    (found,) = device_programs.updates("point_u_maze", [case], cards.read(name))
    assert min(each["kernels"] for each in found.values()) > 50
    assert found.keys() == {"fused", "plain", "reference"}


@needs_wheels
@pytest.mark.slow
def test_what_is_no_description_is_refused_by_the_compiler():
    card = cards.read("h100")
    with pytest.raises(UsageError, match="XLA does not take this description"):
        device_programs.updates("point_u_maze", [], cards.parse(card.text + "nonsense: 1\n", "mine"))


def test_the_fused_path_has_the_products_of_the_plain_one():
    """They are inside kernels, whose text has no products to count."""
    case = Case((4, 2, 2), 8, 16, 32)
    fused, plain = case.implementation("fused"), case.implementation("plain")
    assert fused.trunk
    assert not plain.trunk
    assert fused.cost(32) == plain.cost(32)


@needs_wheels
@pytest.mark.slow
def test_a_kernel_in_triton_is_one_launch():
    """Pallas lowers a kernel of ours for a card of which it knows only the kind."""
    done = subprocess.run([sys.executable, "-c", KERNEL], capture_output=True, text=True, check=False)
    assert done.stdout.split()[-1:] == ["3"], done.stderr


# Three kernels that each add one.
KERNEL = """
import jax, jax.numpy as jnp
from jax.experimental import pallas, topologies
from jax.experimental.pallas import triton
from training.bench import cards, device_programs
from training.bench.launches import Program

jax.config.update("jax_platforms", "cpu")
def add_one(x, y):
    y[...] = x[...] + 1
def kernel(x):
    return pallas.pallas_call(add_one, out_shape=x, compiler_params=triton.CompilerParams(num_warps=4))(x)
text = cards.read("h100").text
card, = topologies.get_topology_desc(platform="cuda", target_config=text, topology="1x1x1").devices
run = jax.jit(lambda x: kernel(kernel(kernel(x))))
program, _ = device_programs.compile_for(card, run, jax.ShapeDtypeStruct((16, 16), jnp.float32))
print(Program(program.as_text()).counts.kernels)
"""
