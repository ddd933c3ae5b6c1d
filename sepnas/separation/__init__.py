"""Separates a trained network: its channels are grouped over devices, and what crosses between groups is thinned."""
