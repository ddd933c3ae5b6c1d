"""The backbones: one file for each family of networks, and their registry."""
