"""The equations of maximum-entropy reinforcement learning, and the types they speak of."""
