import sys
from pathlib import Path

# `python -m` looks in the working directory first, where anything may be called as our packages are, or jax's.
HOME = Path(__file__).parents[1]
if not sys.flags.safe_path and Path(sys.path[0]) != HOME:
    del sys.path[0]

from crlviz.cli import main  # noqa: E402

main()
