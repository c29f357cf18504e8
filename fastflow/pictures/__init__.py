"""Images as pictures and films: strips, grids, GIF and MP4 files. They know nothing of runs or reports."""
