import sys
from pathlib import Path

# `python -m` searches the working directory first. A file there may have the name of one of our packages, or jax's.
HOME = Path(__file__).parents[1]
if not sys.flags.safe_path and Path(sys.path[0]) != HOME:
    del sys.path[0]

from crlviz.cli import main  # noqa: E402

main()
