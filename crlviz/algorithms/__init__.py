"""Learners: what an update of networks is."""
