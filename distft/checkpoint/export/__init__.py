"""A checkpoint in the formats of other programs, each written one tensor or one file at a time."""
