"""Files that are whole or absent. Local folders alone so far; buckets stand beside them."""
