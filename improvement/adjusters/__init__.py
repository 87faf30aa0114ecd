"""Adjusters: tensors in, new tensors out."""
