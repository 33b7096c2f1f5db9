"""Evaluation: answers, scores, baselines and comparisons."""

# Here, because the command line reads them without torch.
BUDGETS = ("15%", "20%", "30%", "50%")
"""Default budgets of a comparison."""
SPACES = ("dop", "depth", "stages")
"""Default spaces of a comparison."""
