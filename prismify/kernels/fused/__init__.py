"""Norm, activation, operator and residual sum in one: its public function, its autograd, its registration.

`composition` says what it means, in the operators it is made of, and serves whatever no engine fuses.
"""
