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

/// Whether a profile that an app names confines it: not the word for none, nor
/// one that the kernel has in a mode in which it refuses nothing. One that is
/// not loaded is refused later, by [`check`].
pub fn confines(name: &str) -> bool {
    confines_by(&fs::read_to_string(LOADED).unwrap_or_default(), name)
}

fn confines_by(list: &str, name: &str) -> bool {
    let mode = mode_of(list, name);
    name != UNCONFINED && mode.is_none_or(|mode| ["enforce", "kill"].contains(&mode))
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
        assert!(confines_by(list, "/usr/bin/man") && confines_by(list, "not-loaded"));
        assert!(!confines_by(list, "skerry-default") && !confines_by(list, UNCONFINED));
    }
}
