"""After training: an adapter is proven to be served as it was trained, and taken elsewhere."""
