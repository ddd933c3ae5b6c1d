"""Assignment: which device computes which part of a network, chosen by the predicted cost."""
