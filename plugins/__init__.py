"""One short file per search domain."""
