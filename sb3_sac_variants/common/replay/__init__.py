"""The replay memory on the training device."""
