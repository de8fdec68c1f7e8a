"""What a trained model is worth: metrics with intervals, and pictures for people."""
