"""Parts for opsearch, one of each kind, as an example for authors of plug-ins.

Nothing is imported here: opsearch imports the module of a part when the part is asked for.
"""
