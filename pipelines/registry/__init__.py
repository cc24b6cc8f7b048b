"""MLflow's models: how one is registered, what it carries, how it answers when served."""
