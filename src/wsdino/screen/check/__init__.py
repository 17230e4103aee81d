"""Silent errors of a screen made loud: one check of its plates and channels after ingest."""
