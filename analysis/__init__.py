"""Analysis: tables and figures from stored results; nothing here loads a model."""
