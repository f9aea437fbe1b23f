//! Wires the hub and its command line together.

fn main() {}
