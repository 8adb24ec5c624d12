"""The configuration: how options are read, each knob once, and what `auto` becomes."""
