"""Data, training and evaluation of any network from images to logits; runs without nni.

Nothing is imported here, so that ``sepnas.train.recipe`` can be imported without torch.
"""
