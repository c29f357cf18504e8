"""What methods and settings are worth: trainings, searches, discoveries, metrics."""
