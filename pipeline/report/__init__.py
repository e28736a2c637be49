"""One HTML file that tells a colleague what a run did."""
