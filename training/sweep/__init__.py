"""Sweeps: train a grid of settings on this machine or a Ray cluster."""
