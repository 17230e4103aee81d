"""Weakly supervised self-distillation for image-based profiling."""
