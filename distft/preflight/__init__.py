"""Whether the nodes of an allocation are as fast and as sound as each other: measured before the run begins there."""
