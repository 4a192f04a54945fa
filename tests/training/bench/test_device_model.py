"""Hours of a run on a card, against sums by hand."""

import csv

import pytest

from tests.helpers.toys import toy_config
from training.bench import cards, device_model
from training.bench.device_model import Work

CARD = cards.Card("toy", "", memory=10**9, bandwidth=1e7, flops={"float32": 1e3, "tf32": 4e3})
PROGRAMS = {
    name: {"kernels": kernels, "physics": kernels // 2, "bytes": 1_000 * kernels, "flops": kernels, "waits": 0}
    for name, kernels in {"collect": 10, "learn": 100, "evaluate": 1_000, "reset": 10_000, "update": 33}.items()
}


def test_each_term_is_its_amount_over_its_rate():
    found = device_model.seconds(Work(kernels=1_000_000, bytes=3_000_000, flops=8_000), CARD, "tf32")
    assert found == pytest.approx({"launches": 3.0, "bytes": 0.3, "FLOPs": 2.0})
    assert device_model.seconds(Work(0, 0, 8_000), CARD, "float32")["FLOPs"] == 8.0


@pytest.mark.parametrize("redraw", [True, False])
def test_a_run_calls_each_program_as_often_as_it_trains(redraw):
    """The toy run fills its buffer in 3 unrolls, then does 4 training steps in 2 epochs, with 3 evaluations."""
    config = toy_config(redraw_goals=redraw)
    assert device_model.calls(config) == {"collect": 7, "learn": 4, "evaluate": 3, "reset": 8 if redraw else 1}
    kernels = 7 * 10 + 4 * 100 + 3 * 1_000 + (8 if redraw else 1) * 10_000
    found = device_model.hours(config, PROGRAMS, CARD)
    assert found["launches"] == pytest.approx(kernels * 3e-6 / 3600)
    assert found["bytes"] == pytest.approx(1_000 * kernels / 1e7 / 3600)
    assert found["FLOPs"] == pytest.approx(kernels / 1e3 / 3600)


def test_the_text_says_what_dominates_and_that_it_is_a_model():
    text = "\n".join(device_model.describe(toy_config(), PROGRAMS, CARD))
    assert "hours by a model, not measured" in text
    assert "The FLOPs dominate: about" in text
    assert "an update launches 33 kernels, a training step 10,110" in text
    assert "physics 5, policy and buffer 5" in text
    assert "waits:" not in text
    waiting = PROGRAMS | {"collect": PROGRAMS["collect"] | {"waits": 3}}
    assert "waits: loops with an iteration count" in "\n".join(device_model.describe(toy_config(), waiting, CARD))


def test_the_text_has_measurements_beside_the_model(monkeypatch, tmp_path):
    monkeypatch.setattr(device_model.resources, "files", lambda package: tmp_path)
    (tmp_path / "model_checks.csv").write_text("card,jax,what,modeled_ms,measured_ms\n")
    assert device_model.checked() == "The model was not checked on any card yet."
    with (tmp_path / "model_checks.csv").open("a") as file:
        file.write("Toy 1,0.11.1,an update,2.0,20.0\nToy 2,0.11.2,an update,2.0,1.0\n")
        file.write("Toy 2,0.11.2,an update,2.0,3.0\nToy 2,0.11.2,a step,4.0,8.0\n")
    assert device_model.checked() == (
        "Checked on Toy 2 (jax 0.11.2): an update took 0.5 to 1.5, a step took 2 times as long as the model says."
    )


def test_the_measurements_that_come_with_crlviz_have_the_largest_bound():
    """Of the launches that the compiled program had, where those dominate."""
    assert "times as long as the model says" in device_model.checked()
    with device_model.resources.files("training.bench").joinpath("model_checks.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert float(row["modeled_ms"]) >= round(int(row["kernels"]) * device_model.LAUNCH_SECONDS * 1e3, 3)
        assert row["card"] in {cards.read(name).name for name in cards.names()}
