"""Pictures, videos and 3-D replays of environments and rollouts."""
