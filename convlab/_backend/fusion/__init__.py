"""Fuse a convolution with the bias, sum and activation that follow it into one call of the engine.

`optimize` and `freeze` read a program (`program`), find such chains in it (`chains`, `activations`, `numbers`) and
replace each by a jitted call; `lowering` lowers that call by `call`.
"""
