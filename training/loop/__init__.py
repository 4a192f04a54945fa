"""The training step: collect, insert, sample, update."""
