"""Evaluation: answers, scores, baselines and comparisons."""
