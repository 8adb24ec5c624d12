"""A trained network put to use: a pass over images, metrics, plots, the exported model."""
