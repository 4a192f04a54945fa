"""Questions about many runs: scores over depth, and what they cost."""
