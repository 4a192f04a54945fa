"""What the tests of checkpoints share beside the fixtures of their conftest."""

from pathlib import Path

import pytest

import crlviz
from crlviz.errors import CrlvizError

STEPS = (90, 1000)  # "90" sorts after "1000" as text


def refusal(path: Path) -> str:
    """The one line with which ``crlviz.load`` refuses a path."""
    with pytest.raises(CrlvizError) as error:
        crlviz.load(path)
    assert "\n" not in str(error.value)
    return str(error.value)
