"""Data sets: sources of photographs, their layout, their pixels, and the shards made of them."""
