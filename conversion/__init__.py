"""Other checkpoints in, stock checkpoints out."""
