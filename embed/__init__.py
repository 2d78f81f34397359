"""What frozen models make of the data: the `Encoder` contract, its families, the pipeline."""
