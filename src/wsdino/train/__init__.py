"""A store and a config become a run folder with checkpoints."""
