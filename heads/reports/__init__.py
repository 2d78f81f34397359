"""What a run leaves for people: pages, plots, explanations."""
