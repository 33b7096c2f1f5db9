"""The sweep: one pass over the layers for all policies of a trie."""
