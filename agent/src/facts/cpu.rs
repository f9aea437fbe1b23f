//! OCI's names for the architecture and its variant.

use super::Host;

/// The architecture that this program was made for, and how much of it the
/// processor can do.
pub(super) fn arch(host: &Host) -> (&'static str, &'static str) {
    named(std::env::consts::ARCH, || host.text("proc/cpuinfo"))
}

fn named(arch: &'static str, cpuinfo: impl Fn() -> String) -> (&'static str, &'static str) {
    match arch {
        "x86_64" => ("amd64", ""),
        "aarch64" => ("arm64", "v8"),
        "arm" => ("arm", arm_variant(&cpuinfo())),
        "riscv64" => ("riscv64", ""),
        "x86" => ("386", ""),
        other => (other, ""),
    }
}

/// The build for v6 runs on later ones too, and the compiler does not say
/// which build this is: the processor decides. Without a word of it, v6, which
/// every one of them runs.
fn arm_variant(cpuinfo: &str) -> &'static str {
    let value = |name: &str| {
        let line = cpuinfo.lines().find(|l| l.starts_with(name))?;
        Some(line.split_once(':')?.1.trim())
    };
    // Kernels say "CPU architecture: 7" of the ARM1176 of a Pi 1 and Zero; its
    // model name knows better.
    if value("model name").is_some_and(|name| name.starts_with("ARMv6")) {
        return "v6";
    }
    match value("CPU architecture") {
        // A 64-bit processor runs 32-bit programs as v7 ones do.
        Some("7" | "8" | "AArch64") => "v7",
        Some(_) | None => "v6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_says_which_arm_it_is() {
        let zero = "processor\t: 0\nmodel name\t: ARMv6-compatible processor rev 7 (v6l)\nCPU architecture: 7\n";
        let two = "model name\t: ARMv7 Processor rev 5 (v7l)\nCPU architecture: 7\n";
        let four =
            "processor\t: 0\nBogoMIPS\t: 108.00\nCPU implementer\t: 0x41\nCPU architecture: 8\n";
        for (cpuinfo, variant) in [(zero, "v6"), (two, "v7"), (four, "v7"), ("", "v6")] {
            assert_eq!(named("arm", || cpuinfo.into()), ("arm", variant));
        }
        assert_eq!(named("aarch64", String::new), ("arm64", "v8"));
        assert_eq!(named("x86_64", String::new), ("amd64", ""));
    }
}
