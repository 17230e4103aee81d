"""Evaluation: profiles become measures with confidence intervals."""
