"""The engine for CUDA: Triton kernels. `support` says what it serves, `run` launches."""
