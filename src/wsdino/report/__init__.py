"""Reporting: figures, attention maps and one HTML file."""
