"""What the torch heads share: layers, and a trainer that fits many configurations as one program."""
