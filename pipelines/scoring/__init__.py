"""From users' memories to click probabilities: candidate files and the scorer, for batches and for served models."""
