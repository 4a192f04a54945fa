"""Residual networks: their layers as one function, precision, and FLOPs."""
