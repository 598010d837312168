"""The parts of the LeNet trainer; `train.py` beside this folder is the program."""

import time

BEGAN = time.perf_counter()  # before the imports that take long
