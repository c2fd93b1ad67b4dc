"""Replicas, adapters and requests in simulated time: the server's own rules on measured times."""
