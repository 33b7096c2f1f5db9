"""Workers: measuring in several processes, by Ray."""
