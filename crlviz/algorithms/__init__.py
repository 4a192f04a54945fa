"""Learning algorithms: losses and updates of networks."""
