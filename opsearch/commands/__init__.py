"""The commands, a function each: they parse and call; heavy imports wait until one needs them."""
