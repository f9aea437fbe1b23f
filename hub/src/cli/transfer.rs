//! Bytes on their way from and to the hub.

use super::error::CliError;
use super::human;
use super::output::Out;
use std::io::{self, Read};
use std::time::Instant;

/// Bytes moved at once.
pub(super) const CHUNK: usize = 256 * 1024;

/// A reader that shows how far it is.
pub(super) struct Counted<'o, R> {
    out: &'o mut Out,
    inner: R,
    done: u64,
    total: Option<u64>,
    shown: Instant,
}

impl<'o, R> Counted<'o, R> {
    pub fn new(out: &'o mut Out, inner: R, total: Option<u64>) -> Self {
        Self {
            out,
            inner,
            done: 0,
            total,
            shown: Instant::now(),
        }
    }
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.done += count as u64;
        if self.shown.elapsed().as_millis() > 100 {
            self.shown = Instant::now();
            let done = human::bytes(self.done);
            let text = match self.total {
                Some(total) if total > 0 => format!(
                    "{done} of {} ({}%)",
                    human::bytes(total),
                    (u128::from(self.done) * 100 / u128::from(total)).min(100)
                ),
                _ => done,
            };
            self.out.progress(&text);
        }
        Ok(count)
    }
}

/// Sends what `pack` writes, on the way: `send` reads it from a pipe.
pub(super) fn packed<T>(
    failed: impl Fn(io::Error) -> CliError,
    pack: impl FnOnce(io::PipeWriter) -> io::Result<()> + Send + 'static,
    send: impl FnOnce(io::PipeReader) -> Result<T, CliError>,
) -> Result<T, CliError> {
    let (reader, writer) = io::pipe().map_err(&failed)?;
    let packer = std::thread::spawn(move || pack(writer));
    let answer = send(reader);
    let packed = packer
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("packing failed")));
    match (packed, answer) {
        (Err(error), Ok(_)) => Err(failed(error)),
        // The hub stopped reading: its own words say why.
        (Err(error), Err(_)) if error.kind() != io::ErrorKind::BrokenPipe => Err(failed(error)),
        (_, answer) => answer,
    }
}
