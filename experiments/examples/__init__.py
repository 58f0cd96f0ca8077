"""Short programs about convolution, with numbers that can be checked by hand: `python -m experiments.examples.NAME`."""
