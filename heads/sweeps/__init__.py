"""Sweeps over heads and inputs, leaderboards, learning curves over few labels."""
