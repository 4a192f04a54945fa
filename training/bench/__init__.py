"""Speed and memory: measure, compare, plan."""
