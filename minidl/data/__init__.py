"""From a name to arrays, and from arrays to batches."""
