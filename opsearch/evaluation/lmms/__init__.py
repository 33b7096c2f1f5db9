"""Evaluation with lmms-eval: its data, prompts, filters and metrics, original against policy."""
