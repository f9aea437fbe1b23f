//! System calls that no library here wraps: modules, reboot, loop devices,
//! partitions, the device mapper, interfaces, the watchdog.

use nix::errno::Errno;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// How the machine goes down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Down {
    /// It starts again, with a word for the firmware if there is one.
    Restart(Option<String>),
    /// It stays off.
    PowerOff,
}

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// `finit_module(2)`. A module that is there already is no error.
pub fn load_module(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open, the parameters are a C string.
    let result =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    match checked(result) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other.map(drop),
    }
}

/// `reboot(2)`. Returns only when it was refused.
pub fn go_down(how: &Down) -> io::Error {
    let word = match how {
        Down::Restart(Some(word)) => CString::new(word.as_str()).unwrap_or_default(),
        Down::Restart(None) | Down::PowerOff => CString::default(),
    };
    let command = match how {
        Down::Restart(Some(_)) => libc::LINUX_REBOOT_CMD_RESTART2,
        Down::Restart(None) => libc::LINUX_REBOOT_CMD_RESTART,
        Down::PowerOff => libc::LINUX_REBOOT_CMD_POWER_OFF,
    };
    // SAFETY: the magic numbers are the call's own, `word` outlives it.
    unsafe {
        libc::syscall(
            libc::SYS_reboot,
            libc::LINUX_REBOOT_MAGIC1,
            libc::LINUX_REBOOT_MAGIC2,
            command,
            word.as_ptr(),
        )
    };
    io::Error::last_os_error()
}

/// Ctrl-Alt-Del becomes SIGINT for us.
pub fn take_ctrl_alt_del() {
    // SAFETY: the call takes numbers only. Where it is refused, the kernel
    // reboots by itself, which is as good.
    unsafe {
        libc::syscall(
            libc::SYS_reboot,
            libc::LINUX_REBOOT_MAGIC1,
            libc::LINUX_REBOOT_MAGIC2,
            libc::LINUX_REBOOT_CMD_CAD_OFF,
            0,
        )
    };
}

/// `struct loop_config` of `linux/loop.h`: a descriptor, a block size, and a
/// `struct loop_info64` of which only the flags are used here.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    before_flags: [u64; 5],
    numbers: [u32; 3],
    flags: u32,
    names: [u8; 64 + 64 + 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// Number of a loop device that is free.
pub fn free_loop(control: &File) -> io::Result<u32> {
    // SAFETY: the call takes no argument.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
    Ok(checked(result.into())? as u32)
}

/// How a file is used behind a loop device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoopUse {
    /// Read, around the page cache of the file below.
    ReadDirect,
    /// Read.
    Read,
    /// Read and written.
    Write,
}

/// Puts `file` behind the loop device, until nobody uses that any more.
pub fn configure_loop(device: &File, file: &File, used: LoopUse) -> io::Result<()> {
    let flags = match used {
        LoopUse::ReadDirect => LO_FLAGS_READ_ONLY | LO_FLAGS_DIRECT_IO,
        LoopUse::Read => LO_FLAGS_READ_ONLY,
        LoopUse::Write => 0,
    };
    let config = LoopConfig {
        fd: file.as_raw_fd() as u32,
        block_size: 0,
        before_flags: [0; 5],
        numbers: [0; 3],
        flags: flags | LO_FLAGS_AUTOCLEAR,
        names: [0; 160],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: both descriptors are open, `config` has the kernel's layout.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) };
    checked(result.into()).map(drop)
}

/// `struct blkpg_partition` and `struct blkpg_ioctl_arg` of `linux/blkpg.h`.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: libc::c_int,
    names: [u8; 128],
}
#[repr(C)]
struct BlkpgArg {
    op: libc::c_int,
    flags: libc::c_int,
    length: libc::c_int,
    data: *mut BlkpgPartition,
}

const BLKPG: libc::c_ulong = 0x1269;

/// What the kernel is told about a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionChange {
    /// There is a new one.
    Add,
    /// One has another length.
    Resize,
}

/// Tells the kernel of a partition, in bytes.
pub fn tell_partition(
    disk: &File,
    change: PartitionChange,
    number: u32,
    start: u64,
    length: u64,
) -> io::Result<()> {
    let mut partition = BlkpgPartition {
        start: start as i64,
        length: length as i64,
        number: number as libc::c_int,
        names: [0; 128],
    };
    let arg = BlkpgArg {
        op: match change {
            PartitionChange::Add => 1,
            PartitionChange::Resize => 3,
        },
        flags: 0,
        length: size_of::<BlkpgPartition>() as libc::c_int,
        data: &raw mut partition,
    };
    // SAFETY: `arg` and what it points to have the kernel's layout and live
    // over the call.
    let result = unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG as _, &raw const arg) };
    checked(result.into()).map(drop)
}

/// Bytes of `struct dm_ioctl` of `linux/dm-ioctl.h`: what each message to the
/// device mapper begins with.
pub const DM_HEADER_BYTES: usize = 312;
/// Where its field `data_size` is.
const DM_DATA_SIZE_AT: usize = 12;
/// `_IOWR(0xfd, 0, struct dm_ioctl)`; the commands count up from it.
const DM_VERSION: libc::c_ulong = 0xC138_FD00;

/// What the device mapper is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DmCommand {
    /// A device without a table.
    Create = 3,
    /// The device goes.
    Remove = 4,
    /// The table that was loaded is used.
    Resume = 6,
    /// A table is loaded.
    Load = 9,
    /// What the targets say of themselves.
    Status = 12,
}

/// Sends a message to the device mapper, which answers in the same bytes.
pub fn device_mapper(control: &File, command: DmCommand, message: &mut [u8]) -> io::Result<()> {
    let size = u32::try_from(message.len()).map_err(|_| Errno::EINVAL)?;
    if message.len() < DM_HEADER_BYTES {
        return Err(Errno::EINVAL.into());
    }
    message[DM_DATA_SIZE_AT..DM_DATA_SIZE_AT + 4].copy_from_slice(&size.to_ne_bytes());
    let call = DM_VERSION + command as libc::c_ulong;
    // SAFETY: the kernel reads and writes no more than `data_size` bytes of the
    // message, which has just been set to its length.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), call as _, message.as_mut_ptr()) };
    checked(result.into()).map(drop)
}

/// `EXT4_IOC_RESIZE_FS`: `_IOW('f', 16, __u64)`.
const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;

/// Grows a mounted ext4 to so many blocks of its own size.
pub fn grow_ext4(mount_point: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: the argument is a number that lives over the call.
    let result = unsafe {
        libc::ioctl(
            mount_point.as_raw_fd(),
            EXT4_IOC_RESIZE_FS as _,
            &raw const blocks,
        )
    };
    checked(result.into()).map(drop)
}

const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;

/// Bytes of a block device.
pub fn device_bytes(device: &File) -> io::Result<u64> {
    let mut bytes = 0_u64;
    // SAFETY: the kernel writes one number of this size.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), BLKGETSIZE64 as _, &raw mut bytes) };
    checked(result.into()).map(|_| bytes)
}

/// `WDIOC_SETTIMEOUT` and `WDIOC_KEEPALIVE` of `linux/watchdog.h`.
const WDIOC_SETTIMEOUT: libc::c_ulong = 0xC004_5706;
const WDIOC_KEEPALIVE: libc::c_ulong = 0x8004_5705;

/// Sets the watchdog's time and returns the one that it took.
pub fn set_watchdog(device: &File, seconds: u32) -> io::Result<u32> {
    let mut value = seconds as libc::c_int;
    // SAFETY: the kernel reads and writes one int.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), WDIOC_SETTIMEOUT as _, &raw mut value) };
    checked(result.into()).map(|_| value as u32)
}

/// Tells the watchdog that we live.
pub fn feed_watchdog(device: &File) -> io::Result<()> {
    let mut value: libc::c_int = 0;
    // SAFETY: the kernel may write one int.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), WDIOC_KEEPALIVE as _, &raw mut value) };
    checked(result.into()).map(drop)
}

/// Sets the wall clock, in milliseconds since 1970.
pub fn set_clock(wall_ms: u64) -> io::Result<()> {
    let time = libc::timespec {
        tv_sec: (wall_ms / 1000) as _,
        tv_nsec: (wall_ms % 1000 * 1_000_000) as _,
    };
    // SAFETY: `time` lives over the call.
    let result = unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) };
    checked(result.into()).map(drop)
}

/// Tells the kernel that the clock was compared with a time server just now: it
/// says so to whoever asks, until that is too long ago (adjtimex(2): 16 s of
/// possible error, nine hours).
pub fn clock_is_right() -> io::Result<()> {
    // SAFETY: all fields are integers, for which zero is a value: no status
    // bit, so synchronised, and no error.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    timex.modes = libc::ADJ_STATUS | libc::ADJ_MAXERROR | libc::ADJ_ESTERROR;
    // SAFETY: the buffer is ours and outlives the call.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    checked(state.into()).map(drop)
}

fn named_request(interface: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all zeros is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let bytes = interface.as_bytes();
    if bytes.is_empty() || bytes.len() >= libc::IFNAMSIZ {
        return Err(Errno::EINVAL.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    Ok(request)
}

fn address(ip: Ipv4Addr) -> libc::sockaddr {
    let inet = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(ip.octets()),
        },
        sin_zero: [0; 8],
    };
    // SAFETY: both are 16 bytes and plain data; the kernel reads the family.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(inet) }
}

fn interface_call(
    socket: BorrowedFd<'_>,
    call: libc::c_ulong,
    request: &mut libc::ifreq,
) -> io::Result<()> {
    // SAFETY: the kernel reads and writes one `ifreq`.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), call as _, &raw mut *request) };
    checked(result.into()).map(drop)
}

/// Brings an interface up; `socket` is any socket of IPv4.
pub fn interface_up(socket: BorrowedFd<'_>, interface: &str) -> io::Result<()> {
    let mut request = named_request(interface)?;
    interface_call(socket, libc::SIOCGIFFLAGS as _, &mut request)?;
    // SAFETY: the call before has filled this member.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | (libc::IFF_UP as libc::c_short);
    interface_call(socket, libc::SIOCSIFFLAGS as _, &mut request)
}

/// Gives an interface its one address, or takes it away with 0.0.0.0.
pub fn set_address(
    socket: BorrowedFd<'_>,
    interface: &str,
    ip: Ipv4Addr,
    mask: Ipv4Addr,
) -> io::Result<()> {
    let mut request = named_request(interface)?;
    request.ifr_ifru.ifru_addr = address(ip);
    interface_call(socket, libc::SIOCSIFADDR as _, &mut request)?;
    if ip.is_unspecified() {
        return Ok(());
    }
    request.ifr_ifru.ifru_netmask = address(mask);
    interface_call(socket, libc::SIOCSIFNETMASK as _, &mut request)
}

/// Adds a default route over an interface. Of two, the one with the lower
/// `metric` is taken. One that is there already is no error.
pub fn add_default_route(
    socket: BorrowedFd<'_>,
    interface: &str,
    gateway: Ipv4Addr,
    metric: u16,
) -> io::Result<()> {
    let mut name = CString::new(interface)?.into_bytes_with_nul();
    // SAFETY: all zeros is a valid `rtentry`.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    // The kernel takes one off.
    route.rt_metric = metric as libc::c_short + 1;
    route.rt_dev = name.as_mut_ptr().cast();
    // SAFETY: `route` and the name in it live over the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT as _, &raw const route) };
    match checked(result.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_the_kernels() {
        // linux/loop.h: 8 + sizeof(struct loop_info64) 232 + 64.
        assert_eq!(size_of::<LoopConfig>(), 304);
        // linux/blkpg.h: 8 + 8 + 4 + 64 + 64, rounded to 8.
        assert_eq!(size_of::<BlkpgPartition>(), 152);
    }

    #[test]
    fn a_message_without_its_header_goes_nowhere() {
        let file = File::open("/dev/null").expect("opens");
        let mut short = [0; DM_HEADER_BYTES - 1];
        let error = device_mapper(&file, DmCommand::Status, &mut short).expect_err("too short");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        // Nor does a whole one where no device mapper listens.
        let mut whole = [0; DM_HEADER_BYTES];
        let error = device_mapper(&file, DmCommand::Status, &mut whole).expect_err("no mapper");
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
        assert_eq!(whole[DM_DATA_SIZE_AT..][..4], 312_u32.to_ne_bytes());
    }

    #[test]
    fn a_wrong_interface_name_is_refused() {
        assert!(named_request("").is_err());
        assert!(named_request("an-interface-with-a-long-name").is_err());
        assert!(named_request("eth0").is_ok());
    }
}
