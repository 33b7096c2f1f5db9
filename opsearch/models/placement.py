"""Where a model is placed, as --device names it; importing this needs no torch."""

AUTO = "auto"  # all devices of the machine
