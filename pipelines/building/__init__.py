"""Building users' memories from a log: the plan, the folding and the commits of `build_memory`."""
