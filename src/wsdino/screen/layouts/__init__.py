"""Layouts of screens on disk, one module each; see the table in :mod:`wsdino.screen.readers`."""
