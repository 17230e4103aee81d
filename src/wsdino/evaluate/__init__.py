"""Profiles become numbers with intervals."""
