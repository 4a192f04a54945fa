"""Residual networks, their fused layers, and FLOPs."""
