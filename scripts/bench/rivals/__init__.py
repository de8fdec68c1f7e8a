"""One program for each library: the training step as a careful user of that library writes it.

Each is run by `python -m` and imports its library at the top.
"""
