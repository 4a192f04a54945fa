"""One training step: collect, insert, sample, update."""
