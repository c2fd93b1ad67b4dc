"""The container images: how they are built, and what is left out of them."""
