"""Measurement of policies: their effect on a model's answers, stored and never repeated."""
