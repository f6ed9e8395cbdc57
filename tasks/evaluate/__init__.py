"""Score a model on the test set, once."""
