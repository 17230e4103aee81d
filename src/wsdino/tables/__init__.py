"""Tables in and out: columns, reading and writing, plate maps."""
