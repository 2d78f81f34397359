"""Many runs: sweeps over heads and inputs, leaderboards, few labels."""
