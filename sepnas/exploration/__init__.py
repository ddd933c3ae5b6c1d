"""Exploration of how a trained network is separated: NNI searches the knobs of `sepnas separate`, before training."""
