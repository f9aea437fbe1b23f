//! Gives back the pages of the program's own code that only the start, or a
//! burst of work, has needed.
//!
//! Joining, opening the store, unpacking and starting containers touch most of
//! the program once; an idle agent needs a small part of it. The kernel maps
//! what is touched and the pages around it, and takes pages that are mapped
//! back late. Unmapped they are ordinary cache: the first to go when an app
//! wants memory, and read anew from the file if they are needed again.

use std::fs;
use std::io;
use std::ops::Range;

/// A mapping of `/proc/self/maps` (proc(5)) that holds `address`, if it is code
/// of a file that cannot be written through it.
fn code_around(maps: &str, address: usize) -> Option<Range<usize>> {
    maps.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        let access = words.next()?;
        let inode = words.nth(2)?;
        (access == "r-xp" && inode != "0" && range.contains(&address)).then_some(range)
    })
}

/// Unmaps this program's code until it is used again; how many bytes of address
/// space that was. Costs a hundred short page faults afterwards.
pub fn give_back_code() -> io::Result<usize> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let ours = give_back_code as fn() -> io::Result<usize> as usize;
    let Some(code) = code_around(&maps, ours) else {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "this program's code is not mapped from a file",
        ));
    };
    // SAFETY: the range is a private mapping of our file that is read-only and
    // never was anything else, as we are built without text relocations: what
    // is touched again is read from the file as it was.
    let result = unsafe {
        libc::madvise(
            code.start as *mut libc::c_void,
            code.len(),
            libc::MADV_DONTNEED,
        )
    };
    match result {
        0 => Ok(code.len()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
00400000-00500000 r--p 00000000 fe:00 42 /usr/bin/skerry-agent
00500000-00900000 r-xp 00100000 fe:00 42 /usr/bin/skerry-agent
00900000-00a00000 rw-p 00500000 fe:00 42 /usr/bin/skerry-agent
7f0000000000-7f0000001000 r-xp 00000000 00:00 0 [vdso]
7f0000002000-7f0000003000 rwxp 00000000 fe:00 42 /usr/bin/skerry-agent
";

    #[test]
    fn only_code_of_a_file_is_given_back() {
        assert_eq!(code_around(MAPS, 0x50_1234), Some(0x50_0000..0x90_0000));
        for other in [0x40_0000, 0x90_0000, 0x7f00_0000_0010, 0x7f00_0000_2010, 1] {
            assert_eq!(code_around(MAPS, other), None, "{other:x}");
        }
    }

    #[test]
    fn the_program_goes_on_and_holds_less() {
        let resident = || {
            let text = fs::read_to_string("/proc/self/smaps").unwrap();
            let ours = give_back_code as fn() -> io::Result<usize> as usize;
            let code = code_around(&fs::read_to_string("/proc/self/maps").unwrap(), ours).unwrap();
            let head = format!("{:x}-", code.start);
            let lines = text
                .lines()
                .skip_while(|l| !l.trim_start_matches('0').starts_with(&head));
            let rss = lines.skip(1).find_map(|l| l.strip_prefix("Rss:")).unwrap();
            rss.split_whitespace()
                .next()
                .unwrap()
                .parse::<u64>()
                .unwrap()
        };
        let before = resident();
        assert!(give_back_code().unwrap() > 0);
        // Other tests run at the same time and touch what they need.
        assert!(resident() < before, "{before} KiB");
    }
}
