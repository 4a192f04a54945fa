"""What the analyses share: their commands' options, runs as data, pictures of seeds."""
