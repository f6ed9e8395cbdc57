"""Find, check and load pretrained weights."""
