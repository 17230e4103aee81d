"""Profiling: tables of sites or wells become normalised treatment profiles."""
