"""The gate between a candidate and the champion: who contends, what is asked, what is kept of the decision."""
