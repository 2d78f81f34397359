"""Reports of runs: pages, plots, explanations."""
