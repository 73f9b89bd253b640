"""Timings and sizes, each next to an alternative in the same run; results record command, versions, hardware."""
