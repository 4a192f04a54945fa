"""Recorded trajectories: what they are, their files, and the recording of new ones."""
