//! One question to the firmware of a Raspberry Pi through the mailbox device
//! `/dev/vcio`, which kernels of Raspberry Pi OS have.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// The property tag "get throttled": one word in, one word out. The word in
/// names bits to forget; we let them be, others want to see them too.
const GET_THROTTLED: u32 = 0x0003_0046;
/// The firmware's mark on an answer that went well.
const ANSWERED: u32 = 0x8000_0000;

/// A question with one word of value: the firmware wants it on a boundary of
/// 16 bytes. Size in bytes, request, tag, bytes of value, bytes that are
/// valid, value, end.
#[repr(C, align(16))]
struct Message([u32; 7]);

fn open(path: &Path) -> Option<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)
        .ok()?;
    // Whatever else has this name is not asked.
    let kind = file.metadata().ok()?.file_type();
    kind.is_char_device().then_some(file)
}

/// The bits, or nothing where there is no such firmware.
pub(super) fn throttled(path: &Path) -> Option<u32> {
    let device = open(path)?;
    let mut message = Message([28, 0, GET_THROTTLED, 4, 4, 0, 0]);
    let request = nix::request_code_readwrite!(100, 0, size_of::<*mut libc::c_char>());
    // SAFETY: the request is the mailbox's property call, which reads and
    // writes as many bytes as the first word says, all of them ours; the
    // buffer outlives the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), request as _, message.0.as_mut_ptr()) };
    (result >= 0 && message.0[1] == ANSWERED).then_some(message.0[5])
}
