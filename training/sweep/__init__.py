"""Many runs: a grid of settings, on this machine or a cluster."""
