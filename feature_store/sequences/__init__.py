"""Users with their events and impressions, as training, evaluation and memory building read them."""
