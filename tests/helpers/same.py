"""Comparison of two runs up to rounding."""

from pathlib import Path

import jax
import numpy as np
import pytest

import crlviz
from crlviz.checkpoints.run_directory import RunDirectory
from tests.torture.runs import TIMES


def same(run: Path, other: Path) -> None:
    """Check that scores, losses and parameters of two runs agree to 1e-4."""
    for mine, theirs in zip(*(RunDirectory(each).read_metrics() for each in (run, other)), strict=True):
        for name in set(mine) - set(TIMES):
            assert mine[name] == theirs[name] or float(mine[name]) == pytest.approx(float(theirs[name]), 1e-4, 1e-4)
    for mine, theirs in zip(*(jax.tree.leaves(crlviz.load(each).params) for each in (run, other)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)
