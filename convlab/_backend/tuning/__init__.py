"""Choices measured on the device at hand, in the place of the tables' (`convlab.autotune`)."""
