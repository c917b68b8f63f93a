"""The small pieces on the hot paths, each by itself: `make bench`."""
