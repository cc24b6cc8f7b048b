"""From ids to rows of embedding tables."""
