"""Timings and sizes, each with its rival in the same run; results with command, versions and hardware beside them."""
