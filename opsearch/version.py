"""The version of opsearch."""

__version__ = "0.1.0"
