"""Object stores on the loopback for tests and benchmarks, and a proxy before them that makes faults."""
