//! AppArmor's policy of this system: the profile of all containers, compiled
//! when the image was built, for there is no `apparmor_parser` in it. The kernel
//! gets it before the first app starts.

use super::disk;
use super::say;
use crate::chain::chain;
use nix::mount::MsFlags;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Whether the kernel has AppArmor, and has it switched on.
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
/// Where the kernel takes and shows what security modules have.
const SECURITYFS: &str = "/sys/kernel/security";
/// Takes a policy in one write: in place of one of the same name, or as a new one.
const DOOR: &str = "/sys/kernel/security/apparmor/.replace";
/// Where `cross/image/build` puts it.
pub(crate) const POLICY: &str = "/lib/apparmor/skerry-default.bin";

/// Why the kernel has no policy of ours.
#[derive(Debug, thiserror::Error)]
enum PolicyError {
    /// The kernel's side is not there.
    #[error("securityfs cannot be mounted at {SECURITYFS}")]
    Mount(#[source] io::Error),
    /// Ours is not.
    #[error("{POLICY} of this system cannot be read")]
    Read(#[source] io::Error),
    /// `EPROTO` is a damaged one, `EPROTONOSUPPORT` one of another version.
    #[error("the kernel refuses {POLICY}, which was compiled for another one")]
    Refused(#[source] io::Error),
}

/// Gives the kernel the policy of this system, where it has AppArmor. Without it
/// apps run all the same, as they do on a kernel that has none.
pub fn load_policy() {
    if !fs::read_to_string(ENABLED).is_ok_and(|text| text.starts_with('Y')) {
        return;
    }
    if let Err(error) = mount_and_load() {
        say::trouble(&format!(
            "AppArmor does not confine apps, capabilities, seccomp and namespaces do: {}; \
             another version of the system mends it",
            chain(&error)
        ));
    }
}

fn mount_and_load() -> Result<(), PolicyError> {
    let door = Path::new(DOOR);
    if !door.exists() {
        let (what, place) = (Path::new("securityfs"), Path::new(SECURITYFS));
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        disk::attach(what, place, "securityfs", flags, "").map_err(PolicyError::Mount)?;
    }
    load(Path::new(POLICY), door)
}

fn load(policy: &Path, door: &Path) -> Result<(), PolicyError> {
    let policy = fs::read(policy).map_err(PolicyError::Read)?;
    let mut door = fs::File::options()
        .write(true)
        .open(door)
        .map_err(PolicyError::Refused)?;
    // A second write would be a second policy.
    match door.write(&policy) {
        Ok(taken) if taken == policy.len() => Ok(()),
        Ok(_) => Err(PolicyError::Refused(io::ErrorKind::WriteZero.into())),
        Err(error) => Err(PolicyError::Refused(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_a_policy_out_is_said() {
        let dir = tempfile::tempdir().expect("a directory");
        let (policy, door) = (dir.path().join("policy"), dir.path().join("door"));
        let said = || load(&policy, &door).map_err(|error| chain(&error));
        let of = |error: Result<(), String>| error.expect_err("nothing is there");
        assert!(of(said()).contains("cannot be read"), "{:?}", said());
        fs::write(&policy, [4, 8, 0]).expect("written");
        assert!(of(said()).contains("the kernel refuses"), "{:?}", said());
        fs::write(&door, "").expect("written");
        assert_eq!(said(), Ok(()));
        assert_eq!(fs::read(&door).expect("there"), [4, 8, 0]);
        // Takes nothing, as the kernel a damaged one.
        let full = Path::new("/dev/full");
        let refused = load(&policy, full).expect_err("nothing fits");
        assert!(matches!(refused, PolicyError::Refused(_)), "{refused}");
    }
}
