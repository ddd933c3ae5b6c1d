"""The stems: one file for each kind of first layers, and their registry."""
