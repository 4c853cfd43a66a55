"""
Machinery every algorithm of the package shares: the training loop, learners, networks, losses, replay, engines.

It may change from one release to the next, but for what ``docs/extending.md`` names for algorithms of others.
"""
