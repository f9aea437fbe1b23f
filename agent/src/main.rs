//! Wires the agent together.

fn main() {}
