//! The system calls that a container may make.
//!
//! The filter has the meaning of Docker's default profile: what ordinary
//! programs use is allowed, and what a capability makes dangerous only with
//! that capability. Three answers:
//!
//! - *allowed*;
//! - `EPERM` for a call that the profile knows and refuses, or leaves out;
//! - `ENOSYS` for numbers beyond all that the profile knows, as an older
//!   kernel would answer, so that a C library falls back. `clone3` answers so
//!   too: its flags lie in memory, where a filter cannot look.
//!
//! 32-bit programs on a 64-bit kernel (i386 on x86-64, Arm on 64-bit Arm) have
//! numbers of their own and the same rules. Calls of any other kind answer
//! `ENOSYS`; x32 programs, whose numbers lie beyond, as well.
//!
//! Stricter than Docker in one point: the two `ioctl`s that type into a
//! terminal are refused.

mod bpf;
mod profile;

use bpf::{Instruction, assemble};
use oci_spec::runtime::Capability;
use profile::Abi;

/// A filter, ready to be installed.
#[derive(Clone)]
pub struct Filter {
    program: Vec<Instruction>,
}

/// Why a filter cannot be made or installed.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// No numbers for this CPU.
    #[error("there is no seccomp profile for this CPU ({0})")]
    Architecture(&'static str),
    /// A mistake in the table of calls.
    #[error("line {0} of the table of system calls cannot be read")]
    Table(usize),
    /// A mistake in the table of calls.
    #[error("the seccomp filter is too long: {0} instructions")]
    TooLong(usize),
    /// The kernel refused.
    #[error("seccomp filter cannot be installed; does the kernel have CONFIG_SECCOMP_FILTER?")]
    Install(#[source] std::io::Error),
}

impl Filter {
    /// The default profile for a process that may have these capabilities.
    pub fn default_profile(capabilities: &[Capability]) -> Result<Self, SeccompError> {
        let cpu = std::env::consts::ARCH;
        let abis = Abi::of_cpu(cpu).ok_or(SeccompError::Architecture(cpu))?;
        let mut answers = Vec::new();
        for abi in abis {
            answers.push((*abi, profile::answers(*abi, capabilities)?));
        }
        let program = assemble(&answers);
        // The kernel's bound for one filter.
        if program.len() > 4096 {
            return Err(SeccompError::TooLong(program.len()));
        }
        Ok(Self { program })
    }

    /// Installs it for this thread and all it starts. Needs "no new
    /// privileges" or CAP_SYS_ADMIN. Nothing but `execve` should come after it.
    pub fn install(&self) -> Result<(), SeccompError> {
        let program = libc::sock_fprog {
            // Checked above to fit.
            len: self.program.len() as libc::c_ushort,
            filter: self.program.as_ptr().cast_mut().cast(),
        };
        // SAFETY: `program` names instructions of the kernel's layout that
        // live over the call, which only reads them.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                0,
                &raw const program,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(SeccompError::Install(std::io::Error::last_os_error()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libc::c_long;

    // From asm-generic/ioctls.h; the C libraries disagree on the type.
    const TIOCSTI: i64 = 0x5412;

    fn error(call: c_long, a: i64, b: i64) -> i32 {
        let null = std::ptr::null::<u8>();
        // SAFETY: every call here is refused by the filter or fails for its
        // arguments; none of them writes to memory or begets a process.
        let result =
            unsafe { libc::syscall(call, a as c_long, b as c_long, null, null, null, null) };
        if result >= 0 {
            0
        } else {
            std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
        }
    }

    /// Filters belong to a thread, so one that ends may try them.
    fn inside<const N: usize>(
        capabilities: &'static [Capability],
        attempts: fn() -> [i32; N],
    ) -> [i32; N] {
        let thread = std::thread::spawn(move || {
            nix::sys::prctl::set_no_new_privs().expect("set");
            Filter::default_profile(capabilities)
                .and_then(|filter| filter.install())
                .expect("installed");
            attempts()
        });
        thread.join().expect("ended")
    }

    #[test]
    fn the_profile_bites() {
        let (eperm, enosys, ebadf) = (libc::EPERM, libc::ENOSYS, libc::EBADF);
        let got = inside(&[], || {
            let flags = i64::from(libc::CLONE_NEWUSER);
            [
                error(libc::SYS_getpid, 0, 0),
                error(libc::SYS_unshare, flags, 0),
                error(libc::SYS_clone, flags, 0),
                error(libc::SYS_bpf, 99, 0),
                error(libc::SYS_io_uring_setup, 0, 0),
                error(libc::SYS_keyctl, 0, 0),
                error(libc::SYS_userfaultfd, 0, 0),
                error(libc::SYS_mount, 0, 0),
                error(libc::SYS_ioctl, -1, TIOCSTI),
                error(libc::SYS_ioctl, -1, libc::TIOCGWINSZ as i64),
                error(libc::SYS_clone3, 0, 0),
                // A number that no kernel has given out yet.
                error(100_000, 0, 0),
            ]
        });
        let expected = [
            0, eperm, eperm, eperm, eperm, eperm, eperm, eperm, eperm, ebadf, enosys, enosys,
        ];
        assert_eq!(got, expected);
    }

    #[test]
    fn arguments_are_looked_at() {
        let got = inside(&[], || {
            let socket = |family: libc::c_int| error(libc::SYS_socket, family.into(), -1);
            [
                socket(libc::AF_VSOCK),
                socket(libc::AF_ALG),
                // What the kernel cuts off must not help.
                error(libc::SYS_socket, i64::from(libc::AF_VSOCK) | 1 << 32, -1),
                error(libc::SYS_personality, 0x0400_0000, 0),
                error(libc::SYS_personality, 0xffff_ffff, 0),
            ]
        });
        assert_eq!(got[..4], [libc::EPERM; 4]);
        assert_eq!(got[4], 0);
    }

    #[test]
    fn a_capability_opens_its_calls() {
        let got = inside(&[Capability::SysTime, Capability::SysAdmin], || {
            [
                error(libc::SYS_unshare, 0, 0),
                error(libc::SYS_setns, -1, 0),
                error(libc::SYS_clone3, 0, 0),
                error(libc::SYS_clock_settime, -1, 0),
                error(libc::SYS_reboot, 0, 0),
            ]
        });
        assert_eq!((got[0], got[1]), (0, libc::EBADF));
        assert!(got[2] != libc::ENOSYS && got[3] != libc::EPERM, "{got:?}");
        assert_eq!(got[4], libc::EPERM, "not its capability");
    }
}
