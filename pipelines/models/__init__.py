"""Trained models on disk: their files, where they are found, and their memory spaces."""
