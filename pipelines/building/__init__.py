"""From a log to users' memories: what `build_memory` plans, folds and commits."""
