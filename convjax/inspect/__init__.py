"""See and count: sizes, parameters, costs, receptive fields and pictures of convolutional networks."""
