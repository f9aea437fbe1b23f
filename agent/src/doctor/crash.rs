//! Did the kernel die and leave a note?

use super::{Finding, Verdict};
use crate::facts::{Host, PanicNote, panic_record};

const KIND: &str = "KernelCrashed";

/// Looks into the memory that survives a reset, and where systemd puts what is
/// in it.
pub fn find(host: &Host) -> Finding {
    let Some(PanicNote { path, .. }) = panic_record(host) else {
        return Finding::good(KIND, "the kernel left no note of a crash");
    };
    let remedy = match path.strip_prefix("sys/fs/pstore/") {
        Some(_) => "tail -n 40 /sys/fs/pstore/dmesg-*; rm /sys/fs/pstore/dmesg-*".to_string(),
        None => format!("grep -rhE -A 25 'Oops|panic|BUG' /{path} | head -n 60; rm -r /{path}"),
    };
    let text = format!("the kernel crashed and left its last words in /{path}");
    Finding::new(KIND, Verdict::Poor, text, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::read_below;
    use crate::facts::tests::Tree;

    #[test]
    fn a_note_that_systemd_moved_is_found_and_is_of_this_start_or_an_older_one() {
        let kept = "var/lib/systemd/pstore/7656789012345678901/dmesg.txt";
        let tree = Tree::new(&[(kept, b"Oops: 0000 [#1]\n"), ("proc/stat", b"btime 1000\n")]);
        let found = find(&tree.host());
        assert_eq!(found.verdict, Verdict::Poor);
        let words = "last words in /var/lib/systemd/pstore/7656789012345678901";
        assert!(found.text.ends_with(words), "{}", found.text);
        assert!(
            found
                .remedy
                .ends_with("rm -r /var/lib/systemd/pstore/7656789012345678901")
        );
        assert_eq!(read_below(&tree.host()).reset_reason, "kernel panic");
        // The machine has started again since.
        tree.put("proc/stat", b"cpu 1 2\nbtime 99999999999\n");
        assert_eq!(find(&tree.host()).verdict, Verdict::Poor);
        assert_eq!(read_below(&tree.host()).reset_reason, "");
        let empty = Tree::new(&[("var/lib/systemd/pstore/x/console.txt", b"")]);
        assert_eq!(find(&empty.host()).verdict, Verdict::Good);
    }
}
