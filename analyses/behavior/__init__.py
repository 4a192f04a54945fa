"""What does the agent do at each depth? (paper figure 3)"""

from analyses.behavior.behavior_picture import plot
from analyses.behavior.hardest_episode import film
from analyses.behavior.naming import NAMES, RULES, compute, find_critical_depth, summary

__all__ = ["NAMES", "RULES", "compute", "film", "find_critical_depth", "plot", "summary"]
