"""Training: batches of a prepared log, epochs, checkpoints and fine-tuning."""
