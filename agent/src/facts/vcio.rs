//! Questions to the firmware of a Raspberry Pi through its mailbox devices,
//! which kernels of Raspberry Pi OS and Ubuntu have: `/dev/vcio`, and since
//! 2026 `/dev/vcio_gencmd`, which takes commands in words only.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// The property tag "get throttled": one word in, one word out. The word in
/// names bits to forget; we let them be, others want to see them too.
const GET_THROTTLED: u32 = 0x0003_0046;
/// The tag for a command in words, answered in words.
const COMMAND: u32 = 0x0003_0080;
/// Room for either, in words of 4 bytes: what `vcgencmd` gives it.
const TEXT_WORDS: usize = 1024 / 4;
/// The firmware's mark on an answer that went well.
const ANSWERED: u32 = 0x8000_0000;

/// A question: size in bytes, request, tag, bytes of value, bytes that are
/// valid, value, end. The firmware wants it on a boundary of 16 bytes.
#[repr(C, align(16))]
struct Message<const WORDS: usize>([u32; WORDS]);

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

/// Puts a question; whether the firmware answered.
fn ask<const WORDS: usize>(device: &File, message: &mut Message<WORDS>) -> bool {
    message.0[0] = size_of_val(&message.0) as u32;
    let request = nix::request_code_readwrite!(100, 0, size_of::<*mut libc::c_char>());
    // SAFETY: the request is the mailbox's property call, which reads and
    // writes as many bytes as the first word says, all of them ours; the
    // buffer outlives the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), request as _, message.0.as_mut_ptr()) };
    result >= 0 && message.0[1] == ANSWERED
}

/// The bits as they are now, or nothing where there is no such firmware.
pub(super) fn throttled(path: &Path) -> Option<u32> {
    let device = open(path)?;
    let mut message = Message([0, 0, GET_THROTTLED, 4, 4, 0, 0]);
    ask(&device, &mut message).then_some(message.0[5])
}

/// The bits with those of the past, as `vcgencmd get_throttled` prints them.
pub(super) fn throttled_since_start(path: &Path) -> Option<u32> {
    let device = open(path)?;
    let mut message = command("get_throttled");
    match ask(&device, &mut message) {
        true => answered_bits(&text(&message)),
        false => None,
    }
}

/// Six words before the text, and one after it.
fn command(words: &str) -> Message<{ TEXT_WORDS + 7 }> {
    let mut message = Message([0; TEXT_WORDS + 7]);
    message.0[2] = COMMAND;
    message.0[3] = (TEXT_WORDS * 4) as u32;
    // The rest are zeros, which end the text.
    for (word, bytes) in message.0[6..].iter_mut().zip(words.as_bytes().chunks(4)) {
        let mut four = [0; 4];
        four[..bytes.len()].copy_from_slice(bytes);
        *word = u32::from_ne_bytes(four);
    }
    message
}

fn text(message: &Message<{ TEXT_WORDS + 7 }>) -> String {
    let bytes = message.0[6..6 + TEXT_WORDS].iter();
    let bytes = bytes.flat_map(|word| word.to_ne_bytes());
    let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `throttled=0x50005`.
fn answered_bits(text: &str) -> Option<u32> {
    let bits = text.trim().strip_prefix("throttled=0x")?;
    u32::from_str_radix(bits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_laid_out_as_the_firmware_reads_it() {
        let message = command("get_throttled");
        assert_eq!(message.0[1..6], [0, COMMAND, 1024, 0, 0]);
        assert_eq!(message.0[6].to_ne_bytes(), *b"get_");
        assert_eq!(message.0[9].to_ne_bytes(), *b"d\0\0\0");
        assert_eq!(message.0[10..], [0; TEXT_WORDS - 3]);
        assert_eq!(text(&message), "get_throttled");
        assert_eq!(align_of_val(&message), 16);
    }

    #[test]
    fn its_answer_is_read_and_an_error_is_none() {
        assert_eq!(answered_bits("throttled=0x50005\n"), Some(0x50005));
        assert_eq!(answered_bits("throttled=0x0"), Some(0));
        let error = "error=1 error_msg=\"Command not registered\"";
        assert_eq!(answered_bits(error), None);
        assert_eq!(answered_bits(""), None);
        assert_eq!(throttled_since_start(Path::new("/dev/null")), None);
        assert_eq!(throttled(Path::new("/dev/null")), None);
    }
}
