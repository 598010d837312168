"""Programs with a convolution and what follows it (a bias, a sum, an activation) as one call of the engine."""
