"""Data sets: sources of images, their layout, their pixels, and the shards made of them."""
