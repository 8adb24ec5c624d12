"""How images reach the device: their order and noise from (seed, step), and what is kept in memory."""
