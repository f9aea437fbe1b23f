//! Which AppArmor profile a container has. libcontainer asks the kernel for it
//! when the image's program is executed; what is missing is refused here before,
//! with the remedy.

use std::fs;

use super::spec::Security;

/// The profile of containers that name none, where it is loaded: the one that
/// our packages bring (`configs/apparmor`).
pub const DEFAULT_PROFILE: &str = "skerry-default";

/// The name that stands for no profile at all.
pub const UNCONFINED: &str = "unconfined";

/// Where the kernel tells which profiles it has: in each line one, with its
/// mode. Not there without AppArmor, or without securityfs.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// Refuses a profile that the kernel does not have.
pub fn check(security: &Security) -> Result<(), String> {
    match &security.app_armor {
        Some(name) if name != UNCONFINED && !has(name) => Err(format!(
            "the AppArmor profile {name:?} is not loaded on this device; load it with \
             'apparmor_parser -r', or leave it out"
        )),
        _ => Ok(()),
    }
}

/// The profile to be used; `None` is none.
pub fn profile(security: &Security) -> Option<String> {
    let default = || has(DEFAULT_PROFILE).then(|| DEFAULT_PROFILE.to_owned());
    let chosen = security.app_armor.clone().or_else(default);
    chosen.filter(|name| name != UNCONFINED)
}

fn has(name: &str) -> bool {
    fs::read_to_string(LOADED).is_ok_and(|list| mode_of(&list, name).is_some())
}

/// The mode of a loaded profile: `enforce`, `complain` and others.
pub fn mode_of<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    list.lines().find_map(|line| {
        let (loaded, mode) = line.strip_suffix(')')?.rsplit_once(" (")?;
        (loaded == name).then_some(mode)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_found_by_their_whole_name() {
        let list = "/usr/bin/man (enforce)\nskerry-default (complain)\nodd (name) (enforce)\n";
        assert_eq!(mode_of(list, "skerry-default"), Some("complain"));
        assert_eq!(mode_of(list, "odd (name)"), Some("enforce"));
        for missing in ["skerry", "odd", "default", ""] {
            assert_eq!(mode_of(list, missing), None, "{missing}");
        }
    }
}
