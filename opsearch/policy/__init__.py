"""Policies: how many ranked visual tokens each decoder operation processes."""
