"""Pictures and videos of environments."""
