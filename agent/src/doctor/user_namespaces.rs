//! Can containers have users of their own?

use super::{Finding, Verdict};
use crate::facts::Host;

const KIND: &str = "NoUserNamespaces";

/// Looks at the kernel's namespaces and how many it allows.
pub fn find(host: &Host) -> Finding {
    let poor = |text: &str, remedy: &str| {
        let text = format!("{text}: apps run, but never apart from the host's users");
        Finding::new(KIND, Verdict::Poor, text, remedy)
    };
    if !host.has("proc/self/ns/user") {
        return poor(
            "the kernel has no user namespaces",
            "install a kernel with CONFIG_USER_NS=y",
        );
    }
    match host.number("proc/sys/user/max_user_namespaces") {
        Some(0) => poor(
            "user namespaces are switched off",
            "echo user.max_user_namespaces=15000 > /etc/sysctl.d/90-userns.conf && sysctl --system",
        ),
        Some(_) | None => Finding::good(KIND, "user namespaces are there"),
    }
}
