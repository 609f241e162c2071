"""One axis-agnostic step, its wrappers, and the loop around them."""
