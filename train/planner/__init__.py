"""How much memory a model takes to train and to serve: arithmetic over its config, no weights."""
