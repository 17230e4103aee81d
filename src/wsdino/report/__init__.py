"""Everything becomes figures, attention maps and one HTML file."""
