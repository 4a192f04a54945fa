"""Throughput predicted from a benchmark file, against the cost model that generated the file."""

import json

import pytest

from crlviz.errors import UsageError
from tests.helpers.measured import MEASURED
from tests.helpers.toys import toy_config
from training.bench import throughput


# A machine with 1e9 FLOP/s and 1 ms of overhead for each update: seconds are exactly linear in FLOPs.
@pytest.fixture
def config():
    return toy_config(batch_size=2)  # sampling a batch takes this machine 2 ms


def seconds(config, flops):
    return 1 / throughput.of_bench(MEASURED, config, flops).updates


def test_an_update_of_a_measured_size(config):
    assert seconds(config, 8_000_000) == pytest.approx(8e-3 + 1e-3 + 2e-3)
    rates = throughput.of_bench(MEASURED, config, 8_000_000)
    assert rates.env_steps == 500.0
    assert rates.source == "by crlviz bench on toy accelerator, at this size"
    elsewhere = throughput.of_bench(MEASURED | {"num_envs": 512, "remat": True}, config, 8_000_000)
    assert elsewhere.source.endswith("at this size and 512 environments instead of 4, with rematerialization")


def test_an_update_between_beyond_and_below_the_measured_sizes(config):
    assert seconds(config, 3_000_000) == pytest.approx(3e-3 + 1e-3 + 2e-3)
    assert seconds(config, 16_000_000) == pytest.approx(2 * 9e-3 + 2e-3)
    assert seconds(config, 10_000) == pytest.approx(1e-5 + 1e-3 + 2e-3)
    source = throughput.of_bench(MEASURED, config, 10_000).source
    assert source.endswith("from 2 other sizes, the smallest with 100.0 times its FLOPs")
    alone = MEASURED | {"updates": MEASURED["updates"][:1]}  # one size gives no constant part
    assert 1 / throughput.of_bench(alone, config, 2_000_000).updates == pytest.approx(9e-3 / 4 + 2e-3)
    # If the extrapolated constant is negative, it counts as zero.
    rows = [{"flops": flops, "ours_updates_per_second": 1e12 / flops**2} for flops in (1_000_000, 2_000_000)]
    assert 1 / throughput.of_bench(MEASURED | {"updates": rows}, config, 500_000).updates == pytest.approx(0.5 + 2e-3)


def test_a_benchmark_file_is_read(tmp_path):
    path = tmp_path / "toy.json"
    path.write_text(json.dumps(MEASURED))
    assert throughput.read(path, "point_u_maze") == MEASURED


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not a file that crlviz bench --json wrote"),
        ("[]", "is not a file that crlviz bench --json wrote"),
        (json.dumps({**MEASURED, "updates": []}), "is not a file that crlviz bench --json wrote"),
        (json.dumps({**MEASURED, "updates": [{"flops": 1}]}), "is not a file that crlviz bench --json wrote"),
        (json.dumps({**MEASURED, "env_steps_per_second": 0}), "is not a file that crlviz bench --json wrote"),
        (json.dumps({**MEASURED, "remat": None}), "is not a file that crlviz bench --json wrote"),
        (
            json.dumps({k: v for k, v in MEASURED.items() if k != "remat"}),
            "is not a file that crlviz bench --json wrote",
        ),
        (json.dumps({**MEASURED, "env": "ant"}), "has the throughput of ant, not of point_u_maze"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_other_files_are_refused_with_a_remedy(tmp_path, text, words):
    path = tmp_path / "toy.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError) as error:
        throughput.read(path, "point_u_maze")
    assert words in str(error.value)
    assert "crlviz bench --env point_u_maze --json toy.json" in str(error.value)


def test_hours_of_the_paper():
    assert [hours for hours, _ in throughput.paper_hours("crl", "humanoid", 64)] == [10.99]
    assert [hours for hours, _ in throughput.paper_hours("crl", "humanoid_u_maze", 64)] == [46.74, 17.33]
    assert throughput.paper_hours("crl", "humanoid", 12) == throughput.paper_hours("crl", "reacher", 4) == []
