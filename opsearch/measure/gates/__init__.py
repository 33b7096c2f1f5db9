"""Gates: gradients of the divergence with respect to a factor on each operation of each token."""
