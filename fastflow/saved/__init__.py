"""What a run folder holds, read back: the run, its potentials' names, edits."""
