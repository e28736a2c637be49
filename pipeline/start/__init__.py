"""The first steps with tables of one's own: init and check."""
