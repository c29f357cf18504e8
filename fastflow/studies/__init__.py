"""Studies: a question, the trainings that answer it, over seeds, and a table that says how sure the answer is."""
