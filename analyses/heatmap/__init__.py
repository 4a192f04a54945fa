"""Does Q follow the maze or the straight line? (paper figure 9)"""

from analyses.heatmap.q_map import compute, plot, summary

__all__ = ["compute", "plot", "summary"]
