"""What does the agent do at each depth? (paper figure 3)"""

from analyses.behavior.naming import compute, plot, summary

__all__ = ["compute", "plot", "summary"]
