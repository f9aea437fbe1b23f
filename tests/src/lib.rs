//! Black-box tests, simulation and benchmarks.
