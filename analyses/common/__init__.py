"""Code that the analyses share: command options and output files, data of runs, plots of seeds."""
