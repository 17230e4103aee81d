"""Embedding: a store, and a model or classical statistics, become one vector per site."""
