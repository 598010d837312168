"""The parts of the LeNet trainer; `train.py` beside this folder is the program."""
