"""Speed of the data stage."""
