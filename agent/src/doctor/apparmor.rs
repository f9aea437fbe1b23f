//! Does AppArmor confine containers, where the kernel has it?

use super::{Finding, Verdict};
use crate::facts::Host;
use crate::init::app_armor;
use crate::runtime::{DEFAULT_APP_ARMOR, app_armor_mode};

const KIND: &str = "NotConfined";
/// The module's own word on whether it is switched on.
const ENABLED: &str = "sys/module/apparmor/parameters/enabled";
const LOADED: &str = "sys/kernel/security/apparmor/profiles";
/// Where our packages put the profile, and the distribution its loader.
const PROFILE: &str = "etc/apparmor.d/skerry-default";
const PARSERS: [&str; 2] = ["sbin/apparmor_parser", "usr/sbin/apparmor_parser"];
/// Of our own image, which has it compiled and no loader.
const BUILT_IN_REMEDY: &str = "restart the device; if it stays so, update its system: the console says why ('skerry: AppArmor ...')";

/// Where our own image has it.
fn built_in_policy() -> &'static str {
    app_armor::POLICY.trim_start_matches('/')
}

/// Looks at what the kernel has loaded.
pub fn find(host: &Host) -> Finding {
    if !host.line(ENABLED).starts_with('Y') {
        let text = "the kernel confines nothing by AppArmor: capabilities, seccomp and namespaces hold apps";
        return Finding::good(KIND, text);
    }
    let poor = |text: &str, remedy: &str| {
        let text = format!("{text}: apps run, held by capabilities, seccomp and namespaces alone");
        Finding::new(KIND, Verdict::Poor, text, remedy)
    };
    let built_in = host.has(built_in_policy());
    if !host.has(LOADED) {
        let remedy = match built_in {
            true => BUILT_IN_REMEDY,
            false => "mount -t securityfs securityfs /sys/kernel/security",
        };
        return poor("what AppArmor has loaded cannot be seen", remedy);
    }
    let list = host.text(LOADED);
    match app_armor_mode(&list, DEFAULT_APP_ARMOR) {
        Some("enforce") => Finding::good(KIND, "AppArmor confines apps"),
        Some(mode) => poor(
            &format!("the AppArmor profile {DEFAULT_APP_ARMOR} is in mode '{mode}'"),
            "apparmor_parser -r -W /etc/apparmor.d/skerry-default",
        ),
        None if list.is_empty() && !nix::unistd::geteuid().is_root() => {
            Finding::unknown(KIND, "only root can tell what AppArmor has loaded")
        }
        None => {
            let has_parser = PARSERS.iter().any(|path| host.has(path));
            let remedy = match (host.has(PROFILE), has_parser) {
                _ if built_in => BUILT_IN_REMEDY,
                (true, true) => "apparmor_parser -r -W /etc/apparmor.d/skerry-default",
                (true, false) => {
                    "apt install apparmor && apparmor_parser -r -W /etc/apparmor.d/skerry-default"
                }
                (false, _) => {
                    "apt install apparmor && apt install --reinstall -o Dpkg::Options::=--force-confmiss skerry-agent, \
                     or './install.sh agent' of its archive again"
                }
            };
            poor(
                &format!(
                    "the kernel has AppArmor, and the profile {DEFAULT_APP_ARMOR} is not loaded"
                ),
                remedy,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_is_missing_is_said_with_its_remedy() {
        let dir = tempfile::tempdir().expect("a directory");
        let host = Host::below(dir.path());
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("below")).expect("made");
            fs::write(path, text).expect("written");
        };
        let expect = |verdict: Verdict, word: &str| {
            let found = find(&host);
            assert_eq!(found.verdict, verdict, "{found:?}");
            assert!(found.remedy.starts_with(word), "{found:?}");
        };
        expect(Verdict::Good, "");
        write(ENABLED, "N\n");
        expect(Verdict::Good, "");
        write(ENABLED, "Y\n");
        expect(Verdict::Poor, "mount -t securityfs");
        write(LOADED, "/usr/bin/man (enforce)\n");
        expect(
            Verdict::Poor,
            "apt install apparmor && apt install --reinstall",
        );
        write(PROFILE, "");
        expect(Verdict::Poor, "apt install apparmor && apparmor_parser");
        write(PARSERS[1], "");
        expect(Verdict::Poor, "apparmor_parser -r -W");
        write(
            LOADED,
            "/usr/bin/man (enforce)\nskerry-default (complain)\n",
        );
        expect(Verdict::Poor, "apparmor_parser -r -W");
        // Our own image has nothing of what these remedies want.
        write(LOADED, "");
        write(built_in_policy(), "");
        if nix::unistd::geteuid().is_root() {
            expect(Verdict::Poor, "restart the device");
        }
        write(LOADED, "skerry-default (enforce)\n");
        expect(Verdict::Good, "");
    }
}
