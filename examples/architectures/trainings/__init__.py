"""The trainings, one module each, on data that need no download or have MNIST's size, and their common functions."""
