"""Pruned execution on stock Hugging Face models: pruned operations are physically skipped."""
