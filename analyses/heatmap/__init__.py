"""Does Q follow the maze or the straight line? (paper figure 9)"""

from analyses.heatmap.q_map import all_places, animate, compute, default_goals, default_places, plot, summary

__all__ = ["all_places", "animate", "compute", "default_goals", "default_places", "plot", "summary"]
