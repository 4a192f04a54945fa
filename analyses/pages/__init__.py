"""Pages of several analyses: the demo, the paper's figures, a run that trains."""
