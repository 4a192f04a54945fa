"""Throughput and memory: benchmarks, the reference implementation and plans."""
