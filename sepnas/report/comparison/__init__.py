"""Ways to run networks on one cluster, priced alike: exact splits, separable networks, and one device alone."""
