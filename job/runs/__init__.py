"""The run folder: the files that a run leaves, for whoever writes or reads them."""
