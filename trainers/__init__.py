"""Making checkpoints: the stages of a schedule and the runner that gates them."""
