//! Which devices a container may open.
//!
//! On cgroup v2 it is a BPF program at its cgroup, loaded through bpf(2)
//! without a library: libcontainer's v2 code needs C libraries, and without
//! them says nothing. On v1 it is lines in the files of the devices
//! controller; libcontainer writes some as well, but lets every container open
//! `/dev/net/tun` and `/dev/console`, so ours take their place.
//!
//! The rules are the same: any node may be made, and only these opened: null,
//! zero, full, random, urandom, tty, ptmx, the terminals, and the devices that
//! the container is given.

use std::fs::{self, File};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use super::nodes::{Kind, Node};

// From linux/bpf.h.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_DEVCG_ACC_MKNOD: i32 = 1;
const BPF_DEVCG_ACC_READ: i32 = 2;
const BPF_DEVCG_ACC_WRITE: i32 = 4;
const BPF_DEVCG_DEV_BLOCK: i32 = 1;
const BPF_DEVCG_DEV_CHAR: i32 = 2;

/// Character devices that every container may open: major, and the minors or
/// all of them.
const ALLOWED: &[(i32, &[i32])] = &[(1, &[3, 5, 7, 8, 9]), (5, &[0, 2]), (136, &[])];

/// `struct bpf_insn`, its two registers in one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

// Opcodes, each BPF class, operation and source in one.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const COPY: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_BITS: u8 = 0x45;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

// Registers: the kernel passes the context in 1 and takes the answer from 0.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const ACCESS: u8 = 2;
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// Puts the rules in force at a cgroup of the v1 devices controller, in place
/// of all that were there.
pub fn apply_v1(dir: &Path, nodes: &[Node]) -> io::Result<()> {
    let allow = |line: String| fs::write(dir.join("devices.allow"), line);
    fs::write(dir.join("devices.deny"), "a")?;
    allow("c *:* m".into())?;
    allow("b *:* m".into())?;
    for (major, minors) in ALLOWED {
        if minors.is_empty() {
            allow(format!("c {major}:* rwm"))?;
        }
        for minor in *minors {
            allow(format!("c {major}:{minor} rwm"))?;
        }
    }
    for node in nodes {
        let kind = match node.kind {
            Kind::Character => 'c',
            Kind::Block => 'b',
        };
        let read = if node.access.reads() { "r" } else { "" };
        let write = if node.access.writes() { "w" } else { "" };
        let (major, minor) = (node.major, node.minor);
        allow(format!("{kind} {major}:{minor} {read}{write}m"))?;
    }
    Ok(())
}

/// The program, loaded into the kernel and not yet in force.
#[derive(Debug)]
pub struct DeviceFilter {
    program: OwnedFd,
}

impl DeviceFilter {
    /// Loads the program. Fails on a kernel without CONFIG_CGROUP_BPF.
    pub fn load(nodes: &[Node]) -> io::Result<Self> {
        /// The part of `union bpf_attr` that this command reads.
        #[repr(C)]
        struct Load {
            program_type: u32,
            count: u32,
            instructions: u64,
            license: u64,
            log_level: u32,
            log_size: u32,
            log: u64,
            kernel_version: u32,
            flags: u32,
        }
        let program = program(nodes);
        let attr = Load {
            program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
            count: u32::try_from(program.len()).map_err(io::Error::other)?,
            instructions: program.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel_version: 0,
            flags: 0,
        };
        // SAFETY: `attr` has the layout and size that the command is told, and
        // what it points to lives over the call.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_LOAD,
                &raw const attr,
                size_of::<Load>(),
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel made this descriptor just now; it is close-on-exec.
        Ok(Self {
            program: unsafe { OwnedFd::from_raw_fd(fd) },
        })
    }

    /// Puts it in force for the cgroup at `dir` for as long as that exists.
    pub fn attach(&self, dir: &Path) -> io::Result<()> {
        /// The part of `union bpf_attr` that this command reads.
        #[repr(C)]
        struct Attach {
            target: u32,
            program: u32,
            attach_type: u32,
            flags: u32,
        }
        let dir = File::open(dir)?;
        let number = |fd: i32| u32::try_from(fd).map_err(io::Error::other);
        let attr = Attach {
            target: number(dir.as_raw_fd())?,
            program: number(self.program.as_raw_fd())?,
            attach_type: BPF_CGROUP_DEVICE,
            // systemd may have a program further up; both must agree.
            flags: BPF_F_ALLOW_MULTI,
        };
        // SAFETY: `attr` has the layout and size that the command is told.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_ATTACH,
                &raw const attr,
                size_of::<Attach>(),
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

/// Answers 1 for what is allowed and 0 for the rest. The context is
/// `struct bpf_cgroup_dev_ctx`: access and kind in one word, major, minor.
fn program(nodes: &[Node]) -> Vec<Instruction> {
    let op = |code, target: u8, source: u8, offset, immediate| Instruction {
        code,
        registers: source << 4 | target,
        offset,
        immediate,
    };
    let answer = |value| [op(MOVE, ANSWER, 0, 0, value), op(EXIT, 0, 0, 0, 0)];
    let mut out = vec![
        op(LOAD_WORD, ACCESS, CONTEXT, 0, 0),
        op(COPY, KIND, ACCESS, 0, 0),
        op(AND, KIND, 0, 0, 0xffff),
        op(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        op(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        op(LOAD_WORD, MINOR, CONTEXT, 8, 0),
        // Making a node is not opening it.
        op(JUMP_IF_NOT_EQUAL, ACCESS, 0, 2, BPF_DEVCG_ACC_MKNOD),
    ];
    out.extend(answer(1));
    for node in nodes {
        let kind = match node.kind {
            Kind::Character => BPF_DEVCG_DEV_CHAR,
            Kind::Block => BPF_DEVCG_DEV_BLOCK,
        };
        // Device numbers have 12 and 20 bits.
        let (major, minor) = (node.major as i32, node.minor as i32);
        let mut forbidden = 0;
        if !node.access.reads() {
            forbidden |= BPF_DEVCG_ACC_READ;
        }
        if !node.access.writes() {
            forbidden |= BPF_DEVCG_ACC_WRITE;
        }
        out.push(op(JUMP_IF_NOT_EQUAL, KIND, 0, 5, kind));
        out.push(op(JUMP_IF_NOT_EQUAL, MAJOR, 0, 4, major));
        out.push(op(JUMP_IF_NOT_EQUAL, MINOR, 0, 3, minor));
        out.push(op(JUMP_IF_BITS, ACCESS, 0, 2, forbidden));
        out.extend(answer(1));
    }
    out.push(op(JUMP_IF_EQUAL, KIND, 0, 2, BPF_DEVCG_DEV_CHAR));
    out.extend(answer(0));
    for (major, minors) in ALLOWED {
        if minors.is_empty() {
            out.push(op(JUMP_IF_NOT_EQUAL, MAJOR, 0, 2, *major));
            out.extend(answer(1));
        }
        for minor in *minors {
            out.push(op(JUMP_IF_NOT_EQUAL, MAJOR, 0, 3, *major));
            out.push(op(JUMP_IF_NOT_EQUAL, MINOR, 0, 2, *minor));
            out.extend(answer(1));
        }
    }
    out.extend(answer(0));
    out
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use super::super::spec::Access;
    use super::*;

    /// The verifier takes the program, and it bites: on a hybrid system the
    /// v2 mount has no controllers, but device programs work there too.
    #[test]
    fn the_program_bites() {
        let table = fs::read_to_string("/proc/self/mountinfo").expect("read");
        let mount = table.lines().find(|line| line.contains(" - cgroup2 "));
        let skip = || assert_eq!(std::env::var("SKERRY_TESTS_MAY_SKIP").as_deref(), Ok("1"));
        let Some(mount) = mount.filter(|_| nix::unistd::geteuid().is_root()) else {
            return skip();
        };
        let mount = PathBuf::from(mount.split(' ').nth(4).expect("a mount point"));
        let group = mount.join(format!("skerry-devices-{}", std::process::id()));
        fs::create_dir(&group).expect("made");
        let nodes = tempfile::tempdir().expect("a directory");
        let attempt = || {
            let script = format!(
                "echo 0 > {}/cgroup.procs; cd {}; for node in 1:3 1:5 1:11 5:2 136:0 10:200; do \
                 mknod $node c ${{node%:*}} ${{node#*:}} || echo mknod; \
                 (exec 3<$node) 2>&1 | grep -q 'not permitted' && printf '%s ' $node; \
                 rm -f $node; done",
                group.display(),
                nodes.path().display()
            );
            let output = Command::new("sh")
                .args(["-c", &script])
                .output()
                .expect("runs");
            String::from_utf8(output.stdout).expect("text")
        };
        let before = attempt();
        DeviceFilter::load(&[])
            .and_then(|filter| filter.attach(&group))
            .expect("attached");
        let after = attempt();
        let nodes = [Node {
            target: "/dev/x".into(),
            kind: Kind::Character,
            major: 10,
            minor: 200,
            mode: 0o666,
            uid: 0,
            gid: 0,
            access: Access::Read,
            to_user: false,
            to_group: false,
            bound_from: None,
        }];
        // One more program at the same cgroup could only forbid more, so what
        // the kernel's verifier says of it is all there is to see here.
        DeviceFilter::load(&nodes).expect("loaded");
        fs::remove_dir(&group).expect("removed");
        assert_eq!((before.as_str(), after.as_str()), ("", "1:11 10:200 "));
    }
}
