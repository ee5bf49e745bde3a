"""The engine for CPUs: stencils compiled by Numba, one specialised program for each shape of problem.

`support` says what it serves, `compile` makes programs of the kernels, `run` and `fused` call them.
"""
