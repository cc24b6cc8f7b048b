"""Lifelong memory of each user for click models: tensors only, no disk, no tables."""
