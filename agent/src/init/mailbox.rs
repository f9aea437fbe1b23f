//! One message to the Raspberry Pi's firmware: that the next start is a trial.
//!
//! The Raspberry Pi's own kernel sends it for `reboot "0 tryboot"`; the
//! mainline kernel, which our image has, does not. So it is sent from here,
//! through `/dev/mem` and the mailbox, in the moment before the restart, when
//! nothing else runs. It needs `iomem=relaxed` on the command line, because
//! the kernel's own driver holds the mailbox. That driver takes the firmware's
//! notice of the answer, which does no harm: nobody waits for one.
//!
//! Source: the Raspberry Pi documentation of the mailbox property interface,
//! `RPI_FIRMWARE_SET_REBOOT_FLAGS` of the Raspberry Pi's kernel.

use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

/// The property that sets flags for the next start; 1 is "tryboot".
const SET_REBOOT_FLAGS: u32 = 0x0003_8064;
/// The mailbox's channel for properties.
const PROPERTIES: u32 = 8;
/// Where the ARM's memory begins for the firmware, uncached.
const UNCACHED: u64 = 0xC000_0000;
/// The firmware reaches memory below this.
const REACH: u64 = 0x4000_0000;
/// Registers, relative to the mailbox: what we write, and whether it is full.
const WRITE: usize = 0x20;
const WRITE_STATUS: usize = 0x38;
const FULL: u32 = 1 << 31;
/// What the firmware answers.
const DONE: u32 = 0x8000_0000;
/// Pages asked for until one is in the firmware's reach; most are.
const MAX_PAGES: usize = 64;
/// The firmware answers within a millisecond.
const PATIENCE: Duration = Duration::from_secs(1);
const PAGE: usize = 4096;
const PAGE_BITS: u64 = PAGE as u64 - 1;
/// Where in its page this mailbox lies on every model: there is another, of the
/// video core's own, that looks the same by name.
const IN_PAGE: u64 = 0x880;

/// Words of the message: length, request, one property, end.
fn message() -> [u32; 7] {
    [7 * 4, 0, SET_REBOOT_FLAGS, 4, 0, 1, 0]
}

/// Physical address of the mailbox, from `/proc/iomem`; `None` where there is
/// none, as on anything but a Raspberry Pi. A line there has the device's name
/// and, since Linux 5.10, that of its node in the device tree behind it.
fn mailbox_in(iomem: &str) -> Option<u64> {
    iomem.lines().find_map(|line| {
        let (range, names) = line.split_once(" : ")?;
        let device = names.split_whitespace().next()?;
        let first = range.trim().split('-').next()?;
        let at = u64::from_str_radix(first, 16).ok()?;
        (device.ends_with(".mailbox") && at & PAGE_BITS == IN_PAGE).then_some(at)
    })
}

/// Tells the firmware that the next start is a trial. `Ok(false)` where there
/// is no such firmware.
pub fn say_tryboot() -> io::Result<bool> {
    let iomem = fs::read_to_string("/proc/iomem")?;
    let Some(mailbox) = mailbox_in(&iomem) else {
        return Ok(false);
    };
    let page = NonZeroUsize::new(PAGE).expect("not zero");
    let memory = File::options().read(true).write(true).open("/dev/mem")?;
    let at = mailbox as usize / PAGE * PAGE;
    // SAFETY: a new mapping that nothing else knows of.
    let registers = unsafe {
        mmap(
            None,
            page,
            ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            MapFlags::MAP_SHARED,
            &memory,
            at as libc::off_t,
        )
    }?;
    let (buffer, address) = reachable_page()?;
    let register = |offset: usize| {
        // SAFETY: the mailbox's registers lie within its page.
        unsafe { registers.cast::<u8>().add(mailbox as usize % PAGE + offset) }.cast::<u32>()
    };
    let words = buffer.cast::<u32>();
    for (at, word) in message().into_iter().enumerate() {
        // SAFETY: seven words fit into the page.
        unsafe { words.add(at).write_volatile(word) };
    }
    write_back(words);
    let deadline = Instant::now() + PATIENCE;
    let late = || io::Error::other("the firmware does not answer");
    // SAFETY: a register, see above.
    while unsafe { register(WRITE_STATUS).read_volatile() } & FULL != 0 {
        if Instant::now() > deadline {
            return Err(late());
        }
    }
    // The firmware has 32 bits, and an address here has 30 and two above.
    let letter = (UNCACHED | address) as u32 | PROPERTIES;
    // SAFETY: a register, see above.
    unsafe { register(WRITE).write_volatile(letter) };
    let answer = loop {
        write_back(words);
        // SAFETY: within the page.
        match unsafe { words.add(1).read_volatile() } {
            0 if Instant::now() > deadline => return Err(late()),
            0 => {}
            answer => break answer,
        }
    };
    // The pages stay until the restart: the firmware may still look.
    match answer {
        DONE => Ok(true),
        other => Err(io::Error::other(format!(
            "the firmware refuses: {other:#x}"
        ))),
    }
}

/// A page of ours within the firmware's reach, and its physical address.
fn reachable_page() -> io::Result<(NonNull<c_void>, u64)> {
    let page = NonZeroUsize::new(PAGE).expect("not zero");
    let mut pagemap = File::open("/proc/self/pagemap")?;
    let mut far = Vec::new();
    let mut found = Err(io::Error::other("no memory within the firmware's reach"));
    while far.len() < MAX_PAGES {
        // Shared pages are not moved by the kernel as readily as private ones.
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_LOCKED | MapFlags::MAP_POPULATE;
        // SAFETY: a new mapping.
        let one = unsafe {
            mmap_anonymous(
                None,
                page,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                flags,
            )
        }?;
        let mut entry = [0; 8];
        pagemap.seek(SeekFrom::Start((one.as_ptr() as usize / PAGE * 8) as u64))?;
        pagemap.read_exact(&mut entry)?;
        let entry = u64::from_le_bytes(entry);
        // Bit 63: it is in memory; bits 0 to 54: its frame.
        let address = (entry & ((1 << 55) - 1)) * PAGE as u64;
        if entry >> 63 == 1 && address != 0 && address < REACH {
            found = Ok((one, address));
            break;
        }
        far.push(one);
    }
    for page in far {
        // SAFETY: mapped above, and nobody uses it.
        let _ = unsafe { munmap(page, PAGE) };
    }
    found
}

/// Takes the message's cache line to memory and out of the cache, so that the
/// firmware sees what we wrote, and we what it wrote.
fn write_back(words: NonNull<u32>) {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: cleans and invalidates one line of a page of ours; Linux allows
    // it to programs.
    unsafe {
        std::arch::asm!("dsb sy", "dc civac, {0}", "dsb sy", in(reg) words.as_ptr());
    }
    #[cfg(not(target_arch = "aarch64"))]
    let _ = words;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_raspberry_pis_mailbox_only() {
        let four = "fe007000-fe007aff : fe007000.dma dma@7e007000\n\
                    fe00b840-fe00b87b : fe00b840.mailbox mailbox@7e00b840\n\
                    fe00b880-fe00b8bf : fe00b880.mailbox mailbox@7e00b880\n";
        assert_eq!(mailbox_in(four), Some(0xfe00_b880));
        let older = "3f007000-3f007eff : dma\n  3f00b880-3f00b8bf : 3f00b880.mailbox\n";
        assert_eq!(mailbox_in(older), Some(0x3f00_b880));
        // Without rights all addresses are zero.
        assert_eq!(mailbox_in("00000000-00000000 : 3f00b880.mailbox\n"), None);
        assert_eq!(mailbox_in("09000000-09000fff : pl011@9000000\n"), None);
    }

    #[test]
    fn the_message_says_its_length() {
        let message = message();
        assert_eq!(message[0] as usize, size_of_val(&message));
        // And lies in one line of the cache.
        assert!(size_of_val(&message) <= 64);
    }
}
