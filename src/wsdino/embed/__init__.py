"""A model, or classical statistics, and a store -> a vector for each site."""
