//! Wires the agent together: the first argument says which process this is.

use std::process::ExitCode;

use skerry_agent::runtime::{helper, keeper};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        // The two processes of the container runtime, started by ourselves.
        Some("keeper") => keeper::main(args),
        Some("helper") => helper::main(),
        _ => {
            eprintln!("usage: skerry-agent COMMAND");
            ExitCode::from(2)
        }
    }
}
