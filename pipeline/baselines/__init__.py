"""What classical methods reach on the tasks of a run."""
