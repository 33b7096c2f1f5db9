"""Dtypes and devices of a model, as options name them; importing this needs no torch."""

AUTO = "auto"  # all devices of the machine
ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes of one number, by dtype
