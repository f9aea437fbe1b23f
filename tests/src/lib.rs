//! What the black-box tests stand on: real binaries, real containers, a real
//! Mosquitto, each with its own directory, port and cgroup, all of it removed
//! at the end. Tests are in `tests/tests`, benchmarks in `tests/benches`.

pub mod attacker;
pub mod cost;
pub mod crowd;
pub mod disk;
pub mod fleet;
pub mod footprint;
pub mod mosquitto;
pub mod same;
pub mod sim;
pub mod tap;

pub use fleet::{Agent, Hub, Scratch};
pub use skerry_hub::demo::world::{http_get, until};

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long anything may take before a test says that it does not happen: far
/// more than it needs on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// A program that `./check` has built, or one of SKERRY_PROGRAMS, a directory
/// of releases.
pub fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a file");
    // target/debug/deps/test-1234
    let debug = test.ancestors().nth(2).expect("target/debug");
    let path = match (name, std::env::var_os("SKERRY_PROGRAMS")) {
        ("skerry-demo-app", _) => {
            let target = debug.parent().expect("target");
            target.join("static/debug").join(name)
        }
        (other, Some(programs)) => PathBuf::from(programs).join(other),
        (other, None) => debug.join(other),
    };
    assert!(
        path.is_file(),
        "{} is missing: run the tests with ./check",
        path.display()
    );
    path
}

/// Copies a program, by another program: a child that another test starts
/// meanwhile has all open that we have, for a moment, and a file that somebody
/// has open to write to cannot be executed ("Text file busy").
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").args([from, to]).status();
    assert!(copied.is_ok_and(|status| status.success()), "cp copies");
}

/// Ends the test with a loud failure where it cannot run, or counts it as
/// skipped when the environment says that this may be.
pub fn need_root() {
    let root = nix::unistd::Uid::effective().is_root();
    assert!(root, "this test makes containers: run it as root");
}
