"""A model and a store become site embeddings and treatment profiles."""
