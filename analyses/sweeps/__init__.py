"""Analyses of many runs: scores over depth, and their costs."""
