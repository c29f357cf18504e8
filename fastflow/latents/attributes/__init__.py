"""Attributes of images that are measured by formulas, such as the thickness of strokes, and their names."""
