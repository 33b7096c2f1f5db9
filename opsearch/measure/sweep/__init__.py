"""The sweep: one pass over the layers for all policies of a trie.

`opsearch/measure/README.md` draws the trie and explains the steps.
"""
