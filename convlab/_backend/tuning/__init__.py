"""`autotune` and `Tuning`: choices measured on the device at hand, which `lowering` prefers to those of the tables."""
