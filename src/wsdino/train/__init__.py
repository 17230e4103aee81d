"""Training: from a store and options to a run folder with checkpoints and a model."""
