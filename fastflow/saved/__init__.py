"""The contents of a run folder, read back: the run, the names of its potentials, edits."""
