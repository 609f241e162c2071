"""Public data sets as they are published, one file each: where they are had, their protocol, and their conversion."""
