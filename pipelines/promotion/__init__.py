"""The gate between a candidate and the champion: the two models, the checks, and the record of the decision."""
