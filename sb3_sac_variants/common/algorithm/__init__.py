"""The training loop of our algorithms (collect, sample, update, log), and checkpoints of runs, those of SB3's too."""
