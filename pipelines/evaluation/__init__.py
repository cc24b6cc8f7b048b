"""What is measured of predictions and of memories, and how it is written down."""
