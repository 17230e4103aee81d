"""Screens on disk become a manifest and a store."""
