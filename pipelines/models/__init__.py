"""Trained models at rest: what their folders hold, how they are found, and what makes two memories comparable."""
