"""Example logs: a synthetic log with known click probabilities, and a converter for MovieLens."""
