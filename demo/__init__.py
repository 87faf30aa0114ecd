"""The demo: real documentation, invented people, the real service."""
