"""HTML pages that combine analyses: the demo, the figures of the paper, and the progress of a run."""
