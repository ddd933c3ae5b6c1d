"""Measuring machines: what ``sepnas profile`` writes into a cluster file. It runs on the devices themselves."""
