"""Models in MLflow: how they are registered, which files they have, and how they are served."""
