"""Every table that enters or leaves: columns, reading and writing, plate maps."""
