//! Making containers takes root.

use super::Finding;

pub(super) fn diagnose() -> Finding {
    if nix::unistd::Uid::effective().is_root() {
        Finding::good("user", "runs as root")
    } else {
        Finding::problem(
            "user",
            "does not run as root, which making containers takes",
            "sudo skerry-agent doctor",
        )
    }
}
