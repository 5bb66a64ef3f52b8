"""A real relay under load while faults strike, and what is left at every destination afterwards.

`make chaos` runs every fault in full and writes docs/explanation/guarantees.md, `make chaos FAULT=valkey_sigkill`
runs one. The generator and the model import nothing from `relay` or `worker`.
"""
