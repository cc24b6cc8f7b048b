"""Vocabularies, which map ids to rows of embedding tables."""
