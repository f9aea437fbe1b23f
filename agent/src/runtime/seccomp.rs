//! The system calls that a container may make.
//!
//! The model is Docker's default profile: what ordinary programs use is
//! allowed, everything else is not. Two filters are laid over each other,
//! because a filter of seccompiler has one answer only:
//!
//! 1. *Known*: a call that this list does not name answers `ENOSYS`, as an
//!    older kernel would, so that a C library falls back. New calls of future
//!    kernels are thus closed until someone has thought about them. `clone3`
//!    is left out on purpose: its flags lie in memory, where a filter cannot
//!    look.
//! 2. *Refused*: a call that is known and dangerous answers `EPERM`.
//!
//! The kernel takes the stricter of the two. Calls of another architecture
//! (32-bit programs on a 64-bit kernel) end the process.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

// From asm-generic/ioctls.h; the C libraries disagree on the type.
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541c;

/// The filters, ready to be installed.
#[derive(Clone)]
pub struct Filters {
    known: BpfProgram,
    refused: BpfProgram,
}

/// Why the filters cannot be made or installed.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// This CPU is not supported by seccompiler.
    #[error("no seccomp filter can be made for this CPU ({0})")]
    Architecture(&'static str),
    /// A mistake in the tables below.
    #[error("seccomp filter cannot be made")]
    Compile(#[source] BackendError),
    /// The kernel refused.
    #[error("seccomp filter cannot be installed; does the kernel have CONFIG_SECCOMP_FILTER?")]
    Install(#[source] seccompiler::Error),
}

impl Filters {
    /// Compiles the default profile.
    pub fn default_profile() -> Result<Self, SeccompError> {
        let known: BTreeMap<i64, Vec<SeccompRule>> = KNOWN
            .iter()
            .chain(REFUSED)
            .map(|call| (*call, Vec::new()))
            .collect();
        let mut refused: BTreeMap<i64, Vec<SeccompRule>> =
            REFUSED.iter().map(|call| (*call, Vec::new())).collect();
        refused.extend(conditional().map_err(SeccompError::Compile)?);
        Ok(Self {
            known: compile(
                known,
                SeccompAction::Errno(libc::ENOSYS as u32),
                SeccompAction::Allow,
            )?,
            refused: compile(
                refused,
                SeccompAction::Allow,
                SeccompAction::Errno(libc::EPERM as u32),
            )?,
        })
    }

    /// Installs them for this thread and all it starts. Needs "no new
    /// privileges". Nothing but `execve` should come after it.
    pub fn install(&self) -> Result<(), SeccompError> {
        seccompiler::apply_filter(&self.refused).map_err(SeccompError::Install)?;
        seccompiler::apply_filter(&self.known).map_err(SeccompError::Install)
    }
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, SeccompError> {
    let arch: TargetArch = std::env::consts::ARCH
        .try_into()
        .map_err(|_| SeccompError::Architecture(std::env::consts::ARCH))?;
    SeccompFilter::new(rules, otherwise, matched, arch)
        .and_then(BpfProgram::try_from)
        .map_err(SeccompError::Compile)
}

/// Calls that are refused for some arguments only.
fn conditional() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let bit = |argument, bit: u64| {
        let op = SeccompCmpOp::MaskedEq(bit);
        rule(argument, SeccompCmpArgLen::Qword, op, bit)
    };
    let value = |argument, value| rule(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    // clone: no new namespaces. s390 has its flags elsewhere; we do not run there.
    let namespaces = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ];
    let clone = namespaces
        .iter()
        .map(|flag| bit(0, *flag as u32 as u64))
        .collect::<Result<_, _>>()?;
    // socket: AF_VSOCK reaches the hypervisor past every network rule; AF_ALG
    // has been a source of kernel exploits and has no users that lack a fallback.
    let socket = vec![
        value(0, libc::AF_VSOCK as u64)?,
        value(0, libc::AF_ALG as u64)?,
    ];
    // ioctl: TIOCSTI types into a terminal, TIOCLINUX does so on a console.
    let ioctl = vec![value(1, TIOCSTI)?, value(1, TIOCLINUX)?];
    let rules = [clone, socket, ioctl];
    Ok(CONDITIONAL.iter().copied().zip(rules).collect())
}

fn rule(
    argument: u8,
    length: SeccompCmpArgLen,
    op: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, length, op, value)?])
}

macro_rules! calls {
    // A C long has 32 bits on 32-bit Arm, a call's number in a rule always 64.
    ($($name:ident)*) => { &[$(libc::$name as i64),*] };
}

/// Known and dangerous: namespaces, mounts, kernel modules, other processes'
/// memory by kernel keys or handles, clocks, and large kernel interfaces that
/// are attacked again and again (bpf, io_uring, userfaultfd, perf).
const REFUSED: &[i64] = calls! {
    SYS_acct SYS_add_key SYS_bpf SYS_clock_settime SYS_delete_module SYS_fanotify_init
    SYS_finit_module SYS_fsconfig SYS_fsmount SYS_fsopen SYS_fspick SYS_init_module
    SYS_io_uring_enter SYS_io_uring_register SYS_io_uring_setup SYS_kcmp
    SYS_kexec_load SYS_keyctl SYS_lookup_dcookie SYS_mount SYS_mount_setattr
    SYS_move_mount SYS_move_pages SYS_name_to_handle_at SYS_nfsservctl SYS_open_by_handle_at
    SYS_open_tree SYS_perf_event_open SYS_pivot_root SYS_process_vm_readv
    SYS_process_vm_writev SYS_quotactl SYS_reboot SYS_request_key SYS_setdomainname
    SYS_sethostname SYS_setns SYS_settimeofday SYS_swapoff SYS_swapon SYS_syslog
    SYS_umount2 SYS_unshare SYS_userfaultfd SYS_vhangup
};

/// Known, and refused for some arguments only: in the order of [`conditional`].
const CONDITIONAL: &[i64; 3] = calls! { SYS_clone SYS_socket SYS_ioctl };

/// Known and allowed, on every architecture.
const KNOWN_EVERYWHERE: &[i64] = calls! {
    SYS_accept SYS_accept4 SYS_adjtimex SYS_bind SYS_brk SYS_capget SYS_capset SYS_chdir
    SYS_chroot SYS_clock_adjtime SYS_clock_getres SYS_clock_gettime SYS_clock_nanosleep SYS_clone
    SYS_close SYS_close_range SYS_connect SYS_copy_file_range SYS_dup SYS_dup3
    SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_execve
    SYS_execveat SYS_exit SYS_exit_group SYS_faccessat SYS_faccessat2 SYS_fallocate
    SYS_fanotify_mark SYS_fchdir SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_fcntl
    SYS_fdatasync SYS_fgetxattr SYS_flistxattr SYS_flock SYS_fremovexattr SYS_fsetxattr SYS_fstat
    SYS_fstatfs SYS_fsync SYS_ftruncate SYS_futex SYS_futex_waitv SYS_getcpu SYS_getcwd
    SYS_getdents64 SYS_getegid SYS_geteuid SYS_getgid SYS_getgroups SYS_getitimer SYS_getpeername
    SYS_getpgid SYS_getpid SYS_getppid SYS_getpriority SYS_getrandom SYS_getresgid SYS_getresuid
    SYS_get_robust_list SYS_getrusage SYS_getsid SYS_getsockname SYS_getsockopt
    SYS_gettid SYS_gettimeofday SYS_getuid SYS_getxattr SYS_inotify_add_watch SYS_inotify_init1
    SYS_inotify_rm_watch SYS_io_cancel SYS_ioctl SYS_io_destroy SYS_io_getevents
    SYS_ioprio_get SYS_ioprio_set SYS_io_setup SYS_io_submit SYS_kill SYS_landlock_add_rule
    SYS_landlock_create_ruleset SYS_landlock_restrict_self SYS_lgetxattr SYS_linkat SYS_listen
    SYS_listxattr SYS_llistxattr SYS_lremovexattr SYS_lseek SYS_lsetxattr SYS_madvise SYS_membarrier
    SYS_memfd_create SYS_mincore SYS_mkdirat SYS_mknodat SYS_mlock SYS_mlock2 SYS_mlockall
    SYS_mprotect SYS_mq_getsetattr SYS_mq_notify SYS_mq_open SYS_mq_timedreceive SYS_mq_timedsend
    SYS_mq_unlink SYS_mremap SYS_msgctl SYS_msgget SYS_msgrcv SYS_msgsnd SYS_msync SYS_munlock
    SYS_munlockall SYS_munmap SYS_nanosleep SYS_openat SYS_openat2 SYS_personality SYS_pidfd_getfd
    SYS_pidfd_open SYS_pidfd_send_signal SYS_pipe2 SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect
    SYS_ppoll SYS_prctl SYS_pread64 SYS_preadv SYS_preadv2 SYS_prlimit64 SYS_process_madvise
    SYS_pselect6 SYS_ptrace SYS_pwrite64 SYS_pwritev SYS_pwritev2 SYS_read
    SYS_readahead SYS_readlinkat SYS_readv SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_remap_file_pages
    SYS_removexattr SYS_renameat2 SYS_restart_syscall SYS_rt_sigaction
    SYS_rt_sigpending SYS_rt_sigprocmask SYS_rt_sigqueueinfo SYS_rt_sigreturn SYS_rt_sigsuspend
    SYS_rt_sigtimedwait SYS_rt_tgsigqueueinfo SYS_sched_getaffinity SYS_sched_getattr
    SYS_sched_getparam SYS_sched_get_priority_max SYS_sched_get_priority_min
    SYS_sched_getscheduler SYS_sched_rr_get_interval SYS_sched_setaffinity SYS_sched_setattr
    SYS_sched_setparam SYS_sched_setscheduler SYS_sched_yield SYS_seccomp SYS_semctl SYS_semget
    SYS_semop SYS_semtimedop SYS_sendfile SYS_sendmmsg SYS_sendmsg SYS_sendto SYS_setfsgid
    SYS_setfsuid SYS_setgid SYS_setgroups SYS_setitimer SYS_setpgid SYS_setpriority SYS_setregid
    SYS_setresgid SYS_setresuid SYS_setreuid SYS_setrlimit SYS_set_robust_list SYS_setsid
    SYS_setsockopt SYS_set_tid_address SYS_setuid SYS_setxattr SYS_shmat SYS_shmctl SYS_shmdt
    SYS_shmget SYS_shutdown SYS_sigaltstack SYS_signalfd4 SYS_socket SYS_socketpair SYS_splice
    SYS_statfs SYS_statx SYS_symlinkat SYS_sync SYS_syncfs SYS_sysinfo SYS_tee
    SYS_tgkill SYS_timer_create SYS_timer_delete SYS_timer_getoverrun SYS_timer_gettime
    SYS_timer_settime SYS_timerfd_create SYS_timerfd_gettime SYS_timerfd_settime SYS_times SYS_tkill
    SYS_truncate SYS_umask SYS_uname SYS_unlinkat SYS_utimensat SYS_vmsplice SYS_wait4 SYS_waitid
    SYS_write SYS_writev
};

/// Known and allowed: the older calls that only x86-64 has.
#[cfg(target_arch = "x86_64")]
const KNOWN_HERE: &[i64] = calls! {
    SYS_access SYS_alarm SYS_arch_prctl SYS_chmod SYS_chown SYS_creat SYS_dup2 SYS_epoll_create
    SYS_epoll_wait SYS_eventfd SYS_fadvise64 SYS_fork SYS_futimesat SYS_getdents SYS_getpgrp
    SYS_getrlimit SYS_inotify_init SYS_lchown SYS_link SYS_lstat SYS_mkdir SYS_mknod SYS_mmap
    SYS_modify_ldt SYS_newfstatat SYS_open SYS_pause SYS_pipe SYS_poll SYS_process_mrelease
    SYS_readlink SYS_rename SYS_renameat SYS_rmdir SYS_rseq SYS_select SYS_signalfd SYS_stat SYS_symlink
    SYS_sync_file_range SYS_time SYS_unlink SYS_ustat SYS_utime SYS_utimes SYS_vfork
};

/// Known and allowed: what 64-bit Arm has besides.
#[cfg(target_arch = "aarch64")]
const KNOWN_HERE: &[i64] = calls! {
    SYS_fadvise64 SYS_getrlimit SYS_mmap SYS_newfstatat SYS_process_mrelease SYS_renameat
    SYS_rseq SYS_sync_file_range
};

/// Known and allowed: what 32-bit Arm has besides: older calls, those with
/// 32-bit ids and 64-bit sizes, and some that the crate libc does not name.
#[cfg(target_arch = "arm")]
const KNOWN_HERE: &[i64] = {
    const NAMED: &[i64] = calls! {
        SYS__llseek SYS__newselect SYS_access SYS_chmod SYS_chown SYS_chown32 SYS_creat SYS_dup2
        SYS_epoll_create SYS_epoll_wait SYS_eventfd SYS_fchown32 SYS_fcntl64 SYS_fork SYS_fstat64
        SYS_fstatat64 SYS_fstatfs64 SYS_ftruncate64 SYS_futimesat SYS_getdents SYS_getegid32
        SYS_geteuid32 SYS_getgid32 SYS_getgroups32 SYS_getpgrp SYS_getresgid32 SYS_getresuid32
        SYS_getuid32 SYS_inotify_init SYS_lchown SYS_lchown32 SYS_link SYS_lstat SYS_lstat64
        SYS_mkdir SYS_mknod SYS_mmap2 SYS_nice SYS_open SYS_pause SYS_pipe SYS_poll SYS_process_mrelease SYS_readlink
        SYS_recv SYS_rename SYS_renameat SYS_rmdir SYS_send SYS_sendfile64 SYS_setfsgid32
        SYS_setfsuid32 SYS_setgid32 SYS_setgroups32 SYS_setregid32 SYS_setresgid32
        SYS_setresuid32 SYS_setreuid32 SYS_setuid32 SYS_sigaction SYS_signalfd SYS_sigpending
        SYS_sigprocmask SYS_sigreturn SYS_sigsuspend SYS_stat SYS_stat64 SYS_statfs64
        SYS_symlink SYS_truncate64 SYS_ugetrlimit SYS_unlink SYS_ustat SYS_utimes SYS_vfork
    };
    // arch/arm/tools/syscall.tbl: fadvise64_64, sync_file_range, rseq; the same
    // calls with 64-bit time (403 to 423, without clock_settime, 404); and
    // breakpoint, cacheflush, usr26, usr32, set_tls and get_tls of asm/unistd.h.
    const NUMBERED: [i64; 28] = [
        270, 341, 398, 403, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 416, 417, 418, 419,
        420, 421, 422, 423, 0xf0001, 0xf0002, 0xf0003, 0xf0004, 0xf0005, 0xf0006,
    ];
    const ALL: [i64; NAMED.len() + NUMBERED.len()] = join(NAMED, &NUMBERED);
    &ALL
};

/// Known and allowed: what the newest architectures have besides.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm")))]
const KNOWN_HERE: &[i64] = calls! {
    SYS_fadvise64 SYS_getrlimit SYS_mmap SYS_newfstatat SYS_rseq SYS_sync_file_range
};

/// Known and allowed.
const KNOWN: &[i64] = {
    const ALL: [i64; KNOWN_EVERYWHERE.len() + KNOWN_HERE.len()] =
        join(KNOWN_EVERYWHERE, KNOWN_HERE);
    &ALL
};

const fn join<const LENGTH: usize>(first: &[i64], second: &[i64]) -> [i64; LENGTH] {
    let mut all = [0; LENGTH];
    let mut at = 0;
    while at < LENGTH {
        all[at] = if at < first.len() {
            first[at]
        } else {
            second[at - first.len()]
        };
        at += 1;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_compiles_and_fits() {
        let filters = Filters::default_profile().expect("compiles");
        // The kernel's bound for one filter.
        assert!(filters.known.len() < 4096 && filters.refused.len() < 4096);
    }

    /// Filters belong to a thread, so one that ends may try them.
    #[test]
    fn the_profile_bites() {
        let attempts = || {
            let (null, flags) = (std::ptr::null::<u8>(), libc::CLONE_NEWUSER as i64);
            // SAFETY: every call here is refused by the filter or fails for its
            // arguments; none of them writes to memory or begets a process.
            let error = |call: libc::c_long, a: i64, b: i64| unsafe {
                let result = libc::syscall(call, a, b, null, null, null, null);
                if result >= 0 {
                    0
                } else {
                    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
                }
            };
            [
                error(libc::SYS_getpid, 0, 0),
                error(libc::SYS_unshare, flags, 0),
                error(libc::SYS_clone, flags, 0),
                error(libc::SYS_bpf, 99, 0),
                error(libc::SYS_io_uring_setup, 0, 0),
                error(
                    libc::SYS_socket,
                    libc::AF_ALG.into(),
                    libc::SOCK_SEQPACKET.into(),
                ),
                error(libc::SYS_ioctl, -1, TIOCSTI as i64),
                error(libc::SYS_ioctl, -1, libc::TIOCGWINSZ as i64),
                error(libc::SYS_clone3, 0, 0),
                // A number that no kernel has given out yet.
                error(100_000, 0, 0),
            ]
        };
        let inside = std::thread::spawn(move || {
            nix::sys::prctl::set_no_new_privs().expect("set");
            Filters::default_profile()
                .and_then(|filters| filters.install())
                .expect("installed");
            attempts()
        });
        let (eperm, enosys, ebadf) = (libc::EPERM, libc::ENOSYS, libc::EBADF);
        let expected = [
            0, eperm, eperm, eperm, eperm, eperm, eperm, ebadf, enosys, enosys,
        ];
        assert_eq!(inside.join().expect("ended"), expected);
    }

    #[test]
    fn no_call_is_both_allowed_and_refused() {
        for call in REFUSED {
            assert!(!KNOWN.contains(call), "{call}");
        }
        assert!(!KNOWN.contains(&libc::SYS_clone3) && !REFUSED.contains(&libc::SYS_clone3));
    }
}
