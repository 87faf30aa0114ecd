"""Online experiments: which users see what, and what is better."""
