"""The run with two checkpoints that the tests of checkpoints read and damage."""

import shutil
from pathlib import Path

import pytest

from tests.helpers.toys import untrained_run
from tests.helpers.two_checkpoints import STEPS


@pytest.fixture(scope="session")
def pristine(tmp_path_factory) -> Path:
    """Read it, never change it."""
    return untrained_run(tmp_path_factory.mktemp("pristine") / "run", steps=STEPS)


@pytest.fixture
def run(pristine, tmp_path) -> Path:
    """A copy, for the test to change."""
    return Path(shutil.copytree(pristine, tmp_path / "run"))
