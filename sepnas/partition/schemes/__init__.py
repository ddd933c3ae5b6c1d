"""Ways to split a network over devices as it is, one file each (:mod:`sepnas.partition.schemes.registry`)."""
