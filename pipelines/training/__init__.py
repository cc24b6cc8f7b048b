"""From a prepared log to fitted weights."""
