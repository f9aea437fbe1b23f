//! Lines of output: from bytes as they come to entries, and back.

use super::super::spec::{ContainerId, Timestamp};
use super::stamp;
use skerry_wire::Digest;
use std::fmt;
use std::io::Write;

/// Longest text of one entry; a longer line becomes several. CRI's figure.
pub const MAX_TEXT: usize = 16 * 1024;
/// Longest unfinished line that is held back in memory. A longer one is
/// written as a piece. Costs at most this much for each stream of each
/// container, and nothing while no line is unfinished.
const MAX_HELD: usize = 2 * 1024;

/// Which of its outputs a process wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn word(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Tells what one start of a container wrote from what others wrote into the
/// same log: the first 32 bits of the digest of the container's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartMark(u32);

impl StartMark {
    /// Hexadecimal digits that it is written with.
    const DIGITS: usize = 8;

    /// The mark of this container.
    pub fn of(id: &ContainerId) -> Self {
        let hex = Digest::of(id.as_str().as_bytes()).hex();
        Self(u32::from_str_radix(&hex[..Self::DIGITS], 16).expect("a digest is hexadecimal"))
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let text = Some(text).filter(|t| t.len() == Self::DIGITS && t.iter().all(digit))?;
        let number = u32::from_str_radix(std::str::from_utf8(text).ok()?, 16);
        number.ok().map(Self)
    }
}

impl fmt::Display for StartMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// Whose output it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Which of its outputs.
    pub stream: Stream,
    /// Which start of which container.
    pub start: StartMark,
}

/// One entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// When the keeper read it.
    pub at: Timestamp,
    /// Where it was written.
    pub stream: Stream,
    /// Which start of a container wrote it.
    pub start: StartMark,
    /// Whether the line goes on in the next entry of the same stream.
    pub partial: bool,
    /// The text without its newline: any bytes but a newline.
    pub text: Vec<u8>,
}

/// Appends the entry's line to `out`. `text` comes in two pieces to spare a
/// copy.
pub fn format(out: &mut Vec<u8>, stamp: &str, origin: Origin, partial: bool, text: [&[u8]; 2]) {
    out.extend_from_slice(stamp.as_bytes());
    out.push(b' ');
    out.extend_from_slice(origin.stream.word().as_bytes());
    out.extend_from_slice(if partial { b" P:" } else { b" F:" });
    let _ = write!(out, "{} ", origin.start);
    out.extend_from_slice(text[0]);
    out.extend_from_slice(text[1]);
    out.push(b'\n');
}

/// Reads an entry's line, without its newline; `None` for anything else.
pub fn parse(line: &[u8]) -> Option<LogEntry> {
    let at = stamp::parse(std::str::from_utf8(line.get(..stamp::LENGTH)?).ok()?)?;
    let rest = &line[stamp::LENGTH..];
    let (stream, rest) = if let Some(rest) = rest.strip_prefix(b" stdout ") {
        (Stream::Stdout, rest)
    } else {
        (Stream::Stderr, rest.strip_prefix(b" stderr ")?)
    };
    let (partial, rest) = match rest {
        [b'P', b':', rest @ ..] => (true, rest),
        [b'F', b':', rest @ ..] => (false, rest),
        _ => return None,
    };
    let (mark, rest) = rest.split_at_checked(StartMark::DIGITS)?;
    let text = rest.strip_prefix(b" ")?;
    Some(LogEntry {
        at,
        stream,
        start: StartMark::parse(mark)?,
        partial,
        text: text.to_vec(),
    })
}

/// Cuts one stream into entries. Holds at most [`MAX_HELD`] bytes.
#[derive(Debug, Default)]
pub struct LineSplitter {
    held: Vec<u8>,
    /// Whether the last entry was a piece of a line.
    inside: bool,
}

impl LineSplitter {
    /// Takes bytes as they were read and hands out entries: whether it is a
    /// piece, and the text in two parts.
    pub fn feed(&mut self, mut bytes: &[u8], mut entry: impl FnMut(bool, [&[u8]; 2])) {
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            self.cut(&bytes[..at], &mut entry, true);
            bytes = &bytes[at + 1..];
        }
        if bytes.is_empty() {
            return;
        }
        if self.held.len() + bytes.len() <= MAX_HELD {
            self.held.extend_from_slice(bytes);
        } else {
            self.cut(bytes, &mut entry, false);
        }
    }

    /// The stream has ended: hands out what is left, as a full line.
    pub fn finish(&mut self, mut entry: impl FnMut(bool, [&[u8]; 2])) {
        if self.inside || !self.held.is_empty() {
            self.cut(&[], &mut entry, true);
        }
    }

    /// Hands out what was held and `bytes`, in pieces of at most [`MAX_TEXT`];
    /// the last one ends the line if `ends` says so.
    fn cut(&mut self, mut bytes: &[u8], entry: &mut impl FnMut(bool, [&[u8]; 2]), ends: bool) {
        // Taken and dropped: memory is not kept for streams at rest.
        let held = std::mem::take(&mut self.held);
        let mut first = held.as_slice();
        loop {
            let room = MAX_TEXT - first.len();
            let (piece, rest) = bytes.split_at(bytes.len().min(room));
            let last = rest.is_empty();
            entry(!(last && ends), [first, piece]);
            if last {
                break;
            }
            first = &[];
            bytes = rest;
        }
        self.inside = !ends;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<(bool, Vec<u8>)> {
        let mut out = Vec::new();
        let mut splitter = LineSplitter::default();
        for chunk in chunks {
            splitter.feed(chunk, |partial, text| out.push((partial, text.concat())));
            assert!(splitter.held.len() <= MAX_HELD);
        }
        splitter.finish(|partial, text| out.push((partial, text.concat())));
        out
    }

    #[test]
    fn lines_are_put_together_and_long_ones_cut() {
        let full = |text: &str| (false, text.as_bytes().to_vec());
        assert_eq!(
            split(&[b"a\nb", b"c\n", b"\n"]),
            [full("a"), full("bc"), full("")]
        );
        assert_eq!(split(&[b"no newline"]), [full("no newline")]);
        assert_eq!(split(&[b""]), []);
        let long = vec![b'x'; MAX_TEXT + 5];
        let cut = split(&[&long, b"\nz\n"]);
        assert_eq!(cut.len(), 4);
        assert_eq!((cut[0].0, cut[0].1.len()), (true, MAX_TEXT));
        assert_eq!((cut[1].0, cut[1].1.len()), (true, 5));
        assert_eq!(cut[2], full(""));
        assert_eq!(cut[3], full("z"));
    }

    #[test]
    fn an_entry_is_read_back() {
        let at = Timestamp(1_795_226_584_000_000_001);
        for (stream, partial) in [(Stream::Stdout, false), (Stream::Stderr, true)] {
            let mut out = Vec::new();
            let start = StartMark::of(&ContainerId::new("web.1").expect("a name"));
            let origin = Origin { stream, start };
            format(&mut out, &stamp::format(at), origin, partial, [b"a ", b"b"]);
            let line = out.strip_suffix(b"\n").expect("ends its line");
            let entry = LogEntry {
                at,
                stream,
                start,
                partial,
                text: b"a b".to_vec(),
            };
            assert_eq!(parse(line), Some(entry));
            for cut in 0..line.len() - 3 {
                assert_eq!(parse(&line[..cut]), None);
            }
        }
    }

    proptest::proptest! {
        /// Whatever the pieces, the text comes out whole and in order.
        #[test]
        fn nothing_is_lost(chunks: Vec<Vec<u8>>, long in 0usize..40_000) {
            let mut chunks = chunks;
            chunks.push(vec![b'y'; long]);
            chunks.push(b"end\n".to_vec());
            let pieces: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            let mut text = Vec::new();
            for (partial, piece) in split(&pieces) {
                proptest::prop_assert!(piece.len() <= MAX_TEXT && !piece.contains(&b'\n'));
                text.extend(piece);
                if !partial {
                    text.push(b'\n');
                }
            }
            proptest::prop_assert_eq!(text, chunks.concat());
        }
    }
}
