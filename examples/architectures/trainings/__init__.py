"""Networks of this folder, trained on data that need no download or are MNIST's size: one module each, and what they
share."""
