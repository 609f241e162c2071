"""Flax (Linen) modules; the rest of the package sees only init and apply."""
