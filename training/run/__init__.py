"""Runs under way: compiled programs, evaluation, saving, several processes."""
