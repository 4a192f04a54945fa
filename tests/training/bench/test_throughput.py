"""Rates that were measured elsewhere, against what they were made from."""

import json

import pytest

from crlviz.errors import UsageError
from tests.helpers.toys import toy_config
from training.bench import throughput

# A machine that does 1e9 FLOPs a second in updates and needs 1 ms for each beside: no line but this one fits its rows.
MEASURED = {
    "machine": {"device": "toy accelerator"},
    "env": "point_u_maze",
    "num_envs": 4,
    "remat": False,
    "env_steps_per_second": 500.0,
    "sampling": {"ours_rows_per_second": 1000.0},
    "updates": [
        {"flops": flops, "ours_updates_per_second": 1 / (1e-3 + flops / 1e9)} for flops in (8_000_000, 1_000_000)
    ],
}


@pytest.fixture
def config():
    return toy_config(batch_size=2)  # sampling its batch takes that machine 2 ms


def seconds(config, flops):
    return 1 / throughput.of_bench(MEASURED, config, flops).updates


def test_an_update_of_a_measured_size(config):
    assert seconds(config, 8_000_000) == pytest.approx(8e-3 + 1e-3 + 2e-3)
    found = throughput.of_bench(MEASURED, config, 8_000_000)
    assert found.env_steps == 500.0
    assert found.source == "by crlviz bench on toy accelerator, at this size"
    elsewhere = throughput.of_bench(MEASURED | {"num_envs": 512, "remat": True}, config, 8_000_000)
    assert elsewhere.source.endswith("at this size and 512 environments instead of 4, with rematerialisation")


def test_an_update_between_beyond_and_below_the_measured_sizes(config):
    assert seconds(config, 3_000_000) == pytest.approx(3e-3 + 1e-3 + 2e-3)
    assert seconds(config, 16_000_000) == pytest.approx(2 * 9e-3 + 2e-3)
    assert seconds(config, 10_000) == pytest.approx(1e-5 + 1e-3 + 2e-3)
    source = throughput.of_bench(MEASURED, config, 10_000).source
    assert source.endswith("from 2 other sizes, the smallest with 100.0 times its FLOPs")
    alone = MEASURED | {"updates": MEASURED["updates"][:1]}  # one size tells nothing of what any update takes
    assert 1 / throughput.of_bench(alone, config, 2_000_000).updates == pytest.approx(9e-3 / 4 + 2e-3)
    # Where large updates are slower than in proportion, small ones are taken to be in proportion.
    rows = [{"flops": flops, "ours_updates_per_second": 1e12 / flops**2} for flops in (1_000_000, 2_000_000)]
    assert 1 / throughput.of_bench(MEASURED | {"updates": rows}, config, 500_000).updates == pytest.approx(0.5 + 2e-3)


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "toy.json"
    path.write_text(json.dumps(MEASURED))
    assert throughput.read(path, "point_u_maze") == MEASURED


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not what crlviz bench --json writes"),
        ("[]", "is not what crlviz bench --json writes"),
        (json.dumps({**MEASURED, "updates": []}), "is not what crlviz bench --json writes"),
        (json.dumps({**MEASURED, "updates": [{"flops": 1}]}), "is not what crlviz bench --json writes"),
        (json.dumps({**MEASURED, "env_steps_per_second": 0}), "is not what crlviz bench --json writes"),
        (json.dumps({**MEASURED, "remat": None}), "is not what crlviz bench --json writes"),
        (json.dumps({k: v for k, v in MEASURED.items() if k != "remat"}), "is not what crlviz bench --json writes"),
        (json.dumps({**MEASURED, "env": "ant"}), "has the environment steps of ant, not of point_u_maze"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_another_file_is_told_from_one_and_how_to_make_one(tmp_path, text, words):
    path = tmp_path / "toy.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError) as error:
        throughput.read(path, "point_u_maze")
    assert words in str(error.value)
    assert "crlviz bench --env point_u_maze --json toy.json" in str(error.value)


def test_the_papers_hours():
    assert [hours for hours, _ in throughput.paper_hours("humanoid", 64)] == [10.99]
    assert [hours for hours, _ in throughput.paper_hours("humanoid_u_maze", 64)] == [46.74, 17.33]
    assert throughput.paper_hours("humanoid", 12) == throughput.paper_hours("reacher", 4) == []
