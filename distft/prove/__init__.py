"""What of distft holds on a machine: checks that train, kill, measure and compare, written down one line each."""
