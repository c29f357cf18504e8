"""Studies: questions answered by many trainings over several seeds, with tables that say how sure the answers are."""
