"""Measuring what policies do to a model's answers, stored so that nothing is measured twice."""
