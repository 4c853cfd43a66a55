"""The equations of maximum-entropy reinforcement learning, the types they speak of, and an update's matrix products."""
