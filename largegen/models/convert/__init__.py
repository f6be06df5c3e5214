"""Published checkpoints to model directories."""
