"""Runs: from settings to a solution and its folder."""
