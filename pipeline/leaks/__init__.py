"""Answers that lie in the question."""
