"""Adapt the network to the user's classes."""
