"""minidl: multilayer perceptrons on NumPy, every gradient written by hand."""
