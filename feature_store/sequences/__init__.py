"""Users' sequences of events and impressions, which training, evaluation and memory building read."""
