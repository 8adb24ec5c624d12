"""What the machine has and does: devices, limits of the control group, threads, replicas."""
