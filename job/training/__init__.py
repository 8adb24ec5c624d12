"""Training: how a run is built, its steps, its state, and what is saved and logged of it."""
