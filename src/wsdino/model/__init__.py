"""The network that training and profiling share."""
