"""How good an adapter is: answers and losses on held-out rows, beside those of the base."""
