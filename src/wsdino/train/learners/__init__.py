"""What the objectives train: networks with their heads and losses, one module each."""
