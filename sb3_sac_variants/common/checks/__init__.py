"""
What is refused, and why: every error names the argument, its value and the remedy.

Also what several rooms look at: the state of the random numbers, and whether somebody has replaced a method.
"""
