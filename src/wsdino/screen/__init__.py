"""Plates on disk, or simulated, become a manifest and a store."""
