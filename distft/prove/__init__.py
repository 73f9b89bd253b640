"""`distft prove`: checks of distft on this machine that train, kill, measure and compare; each is a line of a file."""
