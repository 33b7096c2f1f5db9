"""Calibration and evaluation data: what the policies are searched and graded on."""
