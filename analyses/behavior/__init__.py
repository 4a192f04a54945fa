"""What does the agent do at each depth? (paper figure 3)"""

from analyses.behavior.naming import NAMES, RULES, compute, find_critical_depth, montage, pick, plot, summary

__all__ = ["NAMES", "RULES", "compute", "find_critical_depth", "montage", "pick", "plot", "summary"]
