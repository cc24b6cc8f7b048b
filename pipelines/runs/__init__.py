"""What is kept of a run: its folder, which one process holds at a time, and its page in MLflow."""
