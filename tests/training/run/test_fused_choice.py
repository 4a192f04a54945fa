"""Which path of the networks a run takes, and why. The kernels are interpreted, as there is no GPU."""

import jax
import pytest

from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import UsageError
from crlviz.networks.config import STARTS
from crlviz.networks.fused_trunk import FusedTrunk
from tests.helpers.toys import toy_config
from training import config as configs
from training import sharding, trainer
from training.run import fused_choice
from training.run.fused_choice import Choice


@pytest.fixture
def gpu(monkeypatch):
    """A device that is not a CPU; its kernels are interpreted."""
    monkeypatch.setattr(fused_choice, "_on_cpu", lambda: False)
    monkeypatch.setattr(fused_choice, "_kernels", lambda config: FusedTrunk(config.precision, interpret=True))
    monkeypatch.setattr(fused_choice, "_SECONDS", 0.01)


def test_a_cpu_takes_the_plain_path_and_says_nothing():
    assert fused_choice.choose(toy_config()) == Choice()


def test_a_cpu_refuses_kernels_that_are_asked_for():
    with pytest.raises(UsageError, match="fused=on: the kernels run on NVIDIA GPUs, and this is a CPU"):
        fused_choice.choose(toy_config(fused="on"))


def test_an_unknown_value_is_refused():
    with pytest.raises(UsageError, match="fused is 'maybe'; take auto, on or off"):
        toy_config(fused="maybe").check()


@pytest.mark.slow
def test_kernels_that_agree_are_taken(gpu):
    choice = fused_choice.choose(toy_config(fused="on"))
    assert choice.trunk == FusedTrunk("float32", interpret=True)
    assert "results differ by" in choice.why
    assert choice.record == {"used": True, "why": choice.why}


def test_slower_kernels_are_not_taken(gpu, monkeypatch):
    measured = fused_choice._measured
    monkeypatch.setattr(
        fused_choice, "_measured", lambda *given: (9.0 if given[1] else 1.0, measured(given[0], None)[1])
    )
    choice = fused_choice.choose(toy_config())
    assert choice.trunk is None
    assert choice.why == (
        "plain path: faster here than the fused path (forward and backward 9000.00 ms, plain 1000.00 ms)"
    )


@pytest.mark.slow
def test_kernels_that_disagree_are_not_taken(gpu, monkeypatch):
    def wrong(self, networks):
        return [1.01 * y for *_, y in networks]

    monkeypatch.setattr(FusedTrunk, "__call__", wrong)
    assert "numbers differ from those of the plain path by" in fused_choice.choose(toy_config()).why
    with pytest.raises(UsageError, match=r"fused=on: the fused path's numbers differ .*; take fused=auto"):
        fused_choice.choose(toy_config(fused="on"))


def test_kernels_that_do_not_compile_are_not_taken(gpu, monkeypatch):
    def fails(self, networks):
        raise NotImplementedError("no such instruction\nmore")

    monkeypatch.setattr(FusedTrunk, "__call__", fails)
    assert fused_choice.choose(toy_config()) == Choice(
        None, "plain path: the fused path does not run here (NotImplementedError: no such instruction)"
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"actor.layer_norm": False}, "the fused path does not support actor networks with no LayerNorm"),
        ({"critic.activation": "relu"}, "the fused path does not support critic networks with relu"),
        ({"critic.residual": False}, "the fused path does not support critic networks with no residual"),
        ({"crl.critics": 2}, "the fused path supports only one critic and the actor loss sac"),
        ({"crl.actor_loss": "ddpgbc"}, "the fused path supports only one critic and the actor loss sac"),
        ({"dataset.path": "walks.nc"}, "the fused path supports only runs that learn from their own buffer"),
        ({"critic.remat": True}, "the fused path does not support critic networks with remat"),
        ({"critic.depth": 5, "critic.tail": 1}, "the fused path does not support critic networks with a tail"),
        ({"actor.width": 2048}, "the fused path supports a width of at most 1,024"),
    ],
)
def test_what_the_kernels_do_not_serve_takes_the_plain_path(gpu, changes, reason):
    config = configs.replace(toy_config(), changes)
    assert fused_choice.choose(config) == Choice(None, f"plain path: {reason}")


@pytest.mark.parametrize("start", STARTS)
def test_the_kernels_serve_every_start(start):
    """Also those with a norm before the heads, which is computed after the kernel."""
    assert fused_choice.unserved(toy_config(actor__start=start, critic__start=start)) == ""


def test_several_devices_take_the_plain_path(gpu, monkeypatch):
    monkeypatch.setattr(sharding.Devices, "count", 2)
    assert fused_choice.choose(toy_config()).why == "plain path: the fused path runs on one device"


def test_a_jax_without_triton_takes_the_plain_path(gpu, monkeypatch):
    monkeypatch.setattr(fused_choice, "TRITON", "jax.experimental.pallas.gone")
    why = fused_choice.choose(toy_config()).why
    assert why.startswith("plain path: jax ")
    assert why.endswith("has no jax.experimental.pallas.gone, which the kernels are written in")
    record = {"device": jax.devices()[0].device_kind, "fused": {"used": True, "why": "faster"}}
    assert fused_choice.again(toy_config(), record).why == why


def test_a_resumed_run_keeps_its_path(gpu, monkeypatch):
    """Timing may turn out otherwise, and the result would not be bit-identical."""
    monkeypatch.setattr(fused_choice, "choose", lambda *_: Choice(None, "chosen anew"))
    device = {"device": jax.devices()[0].device_kind}
    fused, plain = {"used": True, "why": "faster"}, {"used": False, "why": "faster too"}
    config = toy_config()
    assert fused_choice.again(config, device | {"fused": fused}).trunk == FusedTrunk("float32", interpret=True)
    assert fused_choice.again(config, device | {"fused": fused, "resumed": [device | {"fused": plain}]}) == Choice(
        None, "faster too"
    )
    assert fused_choice.again(config, device) == Choice()  # of before there was a choice
    assert fused_choice.again(config, {"device": "another", "fused": fused}) == Choice(None, "chosen anew")


@pytest.mark.slow
def test_a_run_trains_on_the_fused_path(monkeypatch, tmp_path, capsys):
    """Its losses are those of the plain path up to rounding; it says what it uses, and config.json too."""
    config = toy_config(evaluations=1, env_steps=160)
    plain = trainer.train(config, tmp_path / "plain", progress=False)
    chosen = Choice(FusedTrunk("float32", interpret=True), "fused path: because")
    monkeypatch.setattr(fused_choice, "choose", lambda *_: chosen)
    fused = trainer.train(config, tmp_path / "fused")
    assert "fused path: because\n" in capsys.readouterr().err
    records = [RunDirectory(run).read_config()["fused"] for run in (plain, fused)]
    assert records == [{"used": False, "why": ""}, {"used": True, "why": "fused path: because"}]
    rows = [RunDirectory(run).read_metrics()[-1] for run in (plain, fused)]
    assert float(rows[1]["critic_loss"]) == pytest.approx(float(rows[0]["critic_loss"]), rel=1e-4)
