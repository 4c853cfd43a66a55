"""Machinery every algorithm of the package shares: the training loop, learners, networks, losses, replay, engines."""
