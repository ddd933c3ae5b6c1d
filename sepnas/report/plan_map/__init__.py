"""A map of a plan: which device computes which region of which layer, and what the devices send each other."""
