"""What a person looks at: strips and animations of traversals, and one page for a run."""

from .strips import save_gif, save_strip

__all__ = ["save_gif", "save_strip"]
