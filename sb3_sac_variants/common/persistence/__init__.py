"""Files: saved models and exact checkpoints."""
