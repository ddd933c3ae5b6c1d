"""Evaluates classifiers: runs, imported networks and deployments, through one process or through their devices."""
