"""One gradient step: learners, targets, temperature, metrics, and the engines that run it."""
