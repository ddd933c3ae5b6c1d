"""Measures machines for ``sepnas profile``, which writes the figures into a cluster file; runs on the devices."""
