"""Pruned execution of Hugging Face models."""
