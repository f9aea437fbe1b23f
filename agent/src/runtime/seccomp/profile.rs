//! The default profile: which call gets which answer.

use oci_spec::runtime::Capability;

use super::SeccompError;
use super::bpf::Answers;

/// The calls, their rules and their numbers.
const CALLS: &str = include_str!("calls.txt");
/// Where 32-bit Arm has calls of its own, far beyond the others.
const ARM_PRIVATE: u32 = 0x0f_0000;

/// Flags of `clone` that make namespaces: mount, cgroup, UTS, IPC, user, PID,
/// network.
const NAMESPACES: u32 =
    0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000;
/// Past every network rule to the hypervisor, and a source of exploits of the
/// kernel without users that lack a fallback (AF_ALG, AF_VSOCK).
const SOCKETS: &[u32] = &[38, 40];
/// Of Linux, of Linux with 32-bit addresses, the same with a 2.6 version, and
/// the question which it is.
const PERSONALITIES: &[u32] = &[0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// TIOCSTI types into a terminal, TIOCLINUX does so on a console.
const TYPING: &[u32] = &[0x5412, 0x541c];

/// A set of system call numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abi {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86.
    I386,
    /// 32-bit Arm, EABI.
    Arm,
    /// 64-bit Arm.
    Arm64,
    /// 64-bit RISC-V.
    Riscv64,
}

impl Abi {
    /// What programs on a kernel for this CPU may use, by Rust's name for it.
    pub fn of_cpu(cpu: &str) -> Option<&'static [Self]> {
        Some(match cpu {
            "x86_64" => &[Self::X86_64, Self::I386],
            "x86" => &[Self::I386],
            "aarch64" => &[Self::Arm64, Self::Arm],
            "arm" => &[Self::Arm],
            "riscv64" => &[Self::Riscv64],
            _ => return None,
        })
    }

    /// The kernel's number for it: `AUDIT_ARCH_*` of linux/audit.h.
    pub fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Arm => 0x4000_0028,
            Self::Arm64 => 0xc000_00b7,
            Self::Riscv64 => 0xc000_00f3,
        }
    }

    /// Its column among the numbers of [`CALLS`].
    fn column(self) -> usize {
        self as usize
    }
}

/// What a call gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is made.
    Allow,
    /// `EPERM`.
    Refuse,
    /// `ENOSYS`.
    Unknown,
    /// It is made if one of its arguments passes, otherwise `EPERM`.
    AllowIf {
        /// Which argument, from 0.
        argument: u32,
        /// How it is looked at.
        test: Test,
    },
}

/// A look at the low 32 bits of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// It is one of these.
    OneOf(&'static [u32]),
    /// It is none of these.
    NoneOf(&'static [u32]),
    /// It has none of these bits.
    NoBits(u32),
}

/// The answers to all numbers of an ABI, for a process that may have these
/// capabilities.
pub fn answers(abi: Abi, capabilities: &[Capability]) -> Result<Answers, SeccompError> {
    // By name, once: the table has names.
    let names: Vec<String> = capabilities.iter().filter_map(name).collect();
    let mut calls: Vec<(u32, Answer)> = Vec::new();
    for (number, line) in CALLS.lines().enumerate() {
        // Of ASCII alone: every start of a container goes through all of it.
        let words = line.split_ascii_whitespace();
        let mut words = words.take_while(|word| *word != "#");
        let (Some(name), Some(rule)) = (words.next(), words.next()) else {
            continue;
        };
        let wrong = || SeccompError::Table(number + 1);
        match words.nth(abi.column()).ok_or_else(wrong)? {
            "-" => {}
            text => {
                let call = text.parse().map_err(|_| wrong())?;
                let answer = answer(name, rule, &names);
                calls.push((call, answer));
            }
        }
    }
    calls.sort_by_key(|(call, _)| *call);
    // 32-bit Arm has a call with two names.
    calls.dedup_by_key(|(call, _)| *call);
    Ok(ranges(&calls))
}

/// A capability's name without `CAP_`.
fn name(capability: &Capability) -> Option<String> {
    let full = serde_json::to_value(capability).ok()?;
    Some(full.as_str()?.strip_prefix("CAP_")?.to_owned())
}

fn answer(name: &str, rule: &str, capabilities: &[String]) -> Answer {
    let mut answer = match name {
        "clone3" => Answer::Unknown,
        _ => Answer::Refuse,
    };
    for part in rule.split('|') {
        let first = |test| Answer::AllowIf { argument: 0, test };
        match part {
            "always" if name == "ioctl" => {
                let test = Test::NoneOf(TYPING);
                return Answer::AllowIf { argument: 1, test };
            }
            "always" => return Answer::Allow,
            "clone" => answer = first(Test::NoBits(NAMESPACES)),
            "personality" => answer = first(Test::OneOf(PERSONALITIES)),
            "socket" => answer = first(Test::NoneOf(SOCKETS)),
            _ if capabilities.iter().any(|one| one == part) => return Answer::Allow,
            _ => {}
        }
    }
    answer
}

/// Answers for every number: gaps between the calls are refused, and what
/// comes after the last of them is unknown.
fn ranges(calls: &[(u32, Answer)]) -> Answers {
    let mut out: Answers = vec![(0, Answer::Refuse)];
    let mut set = |from: u32, answer: Answer| match out.last_mut() {
        Some(last) if last.0 == from => last.1 = answer,
        Some(last) if last.1 == answer => {}
        _ => out.push((from, answer)),
    };
    for (index, (call, answer)) in calls.iter().enumerate() {
        set(*call, *answer);
        let next = calls.get(index + 1).map(|(next, _)| *next);
        let last_of_kind = match next {
            None => true,
            Some(next) => next >= ARM_PRIVATE && *call < ARM_PRIVATE,
        };
        let gap = match last_of_kind {
            true => Answer::Unknown,
            false => Answer::Refuse,
        };
        if next != Some(*call + 1) {
            set(*call + 1, gap);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::spec::capability;

    fn answer_of(abi: Abi, call: u32) -> Answer {
        let all = answers(abi, &[]).expect("readable");
        let at = all.partition_point(|(first, _)| *first <= call);
        all[at - 1].1
    }

    #[test]
    fn numbers_are_those_of_the_c_library() {
        // A sample over the whole range, on whatever CPU this runs.
        let Some([abi, ..]) = Abi::of_cpu(std::env::consts::ARCH) else {
            panic!("a CPU without a profile");
        };
        for call in [
            libc::SYS_read,
            libc::SYS_openat,
            libc::SYS_execve,
            libc::SYS_futex,
            libc::SYS_statx,
            libc::SYS_getrandom,
            libc::SYS_close_range,
            libc::SYS_landlock_create_ruleset,
            libc::SYS_faccessat2,
            libc::SYS_wait4,
        ] {
            assert_eq!(answer_of(*abi, call as u32), Answer::Allow, "{call}");
        }
        for call in [
            libc::SYS_bpf,
            libc::SYS_mount,
            libc::SYS_setns,
            libc::SYS_reboot,
            libc::SYS_kexec_load,
            libc::SYS_keyctl,
            libc::SYS_userfaultfd,
            libc::SYS_io_uring_setup,
            libc::SYS_swapon,
            libc::SYS_open_by_handle_at,
        ] {
            assert_eq!(answer_of(*abi, call as u32), Answer::Refuse, "{call}");
        }
    }

    #[test]
    fn the_table_is_whole() {
        let lines = CALLS.lines().filter(|line| !line.starts_with('#'));
        for line in lines {
            assert_eq!(line.split_whitespace().count(), 7, "{line}");
            let rule = line.split_whitespace().nth(1).expect("a rule");
            for part in rule.split('|') {
                let test = ["always", "clone", "personality", "socket"].contains(&part);
                assert!(test || capability(part).is_some(), "{line}");
            }
        }
        for abi in [Abi::X86_64, Abi::I386, Abi::Arm, Abi::Arm64, Abi::Riscv64] {
            let all = answers(abi, &[]).expect("readable");
            assert!(all.len() > 50);
            assert!(all.is_sorted_by(|a, b| a.0 < b.0 && a.1 != b.1));
            assert_eq!(answer_of(abi, u32::MAX), Answer::Unknown);
            assert_eq!(answer_of(abi, 600), Answer::Unknown);
        }
    }
}
