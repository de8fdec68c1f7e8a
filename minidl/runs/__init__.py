"""A config becomes data, model and optimizer, and a run in its folder."""
