"""What is learned on top of frozen features: the `Head` contract, families, training, runs."""
