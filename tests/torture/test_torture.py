"""A few of each torture, with real processes; the scripts do as many as one likes."""

import pytest

from tests.torture import full_disk, kills

pytestmark = pytest.mark.slow


def test_kills(tmp_path):
    table, wrong = kills.torture(3, 0, tmp_path)
    assert wrong == []
    assert table["kills"] == 3
    assert table["runs that ended as the uninterrupted one"] == table["runs"]


def test_full_disk(tmp_path):
    with full_disk.tmpfs(tmp_path) as small:
        table, wrong = full_disk.torture(3, 0, tmp_path, small)
    assert wrong == []
    assert sum(table.values()) == 3
