"""Measures of a run's traversals."""
