"""Decode once, split, and pack the images for one network."""
