"""A run's output folder, which one process works in at a time, and its run in MLflow."""
