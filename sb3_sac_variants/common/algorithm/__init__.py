"""The training loop: collect, sample, update, log."""
