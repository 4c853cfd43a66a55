"""What is refused, and why: every error names the argument, its value and the remedy."""
