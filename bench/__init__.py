"""Benchmarks: bench/README.md says what each does and how to read it."""
