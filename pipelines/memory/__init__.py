"""From a log to memories, and from memories to scores: what build_memory and score_batch are made of."""
