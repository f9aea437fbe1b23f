//! The hub and the operator's command line: one program.

fn main() -> std::process::ExitCode {
    skerry_hub::cli::main()
}
