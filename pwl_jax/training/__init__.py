"""Losses, the mapped step, the loop, checkpoints, and the evaluation of compositions."""
