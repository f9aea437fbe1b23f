//! Compressed layers as plain bytes: gzip, zstd or neither, told apart by
//! their first bytes. Media types are not asked: tools get them wrong.
#![forbid(unsafe_code)]

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::io::{self, BufRead, BufReader, Read};

/// Memory that a zstd frame may ask for, in bytes. `zstd -19` asks for 8 MiB,
/// the best level of the encoder in containerd, podman and BuildKit for 32.
pub const MAX_ZSTD_WINDOW_BYTES: u64 = 32 << 20;

const BUFFER_BYTES: usize = 64 << 10;

/// Reads the plain bytes of a gzip or zstd stream, or of one that is neither.
/// Streams of several members or frames are read to their end, as containerd
/// does; zstd's skippable frames are skipped (zstd:chunked has them).
pub struct Plain<R: Read>(Kind<R>);

enum Kind<R: Read> {
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    Zstd(Box<Zstd<BufReader<R>>>),
    Stored(BufReader<R>),
}

impl<R: Read> Plain<R> {
    /// Looks at the first bytes.
    pub fn new(source: R) -> io::Result<Self> {
        let mut source = BufReader::with_capacity(BUFFER_BYTES, source);
        let start = source.fill_buf()?;
        Ok(Self(match start {
            [0x1f, 0x8b, ..] => Kind::Gzip(Box::new(MultiGzDecoder::new(source))),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Kind::Zstd(Box::new(Zstd::new(source)))
            }
            _ => Kind::Stored(source),
        }))
    }
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Kind::Gzip(decoder) => decoder.read(buffer),
            Kind::Zstd(decoder) => decoder.read(buffer),
            Kind::Stored(source) => source.read(buffer),
        }
    }
}

/// The frames of a zstd stream, one after the other.
struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_ZSTD_WINDOW_BYTES);
        Self {
            source,
            decoder,
            in_frame: false,
        }
    }

    /// Starts the next frame; false at the end of the stream.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.source) {
                Ok(()) => {
                    self.in_frame = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let skipped = io::copy(
                        &mut self.source.by_ref().take(length.into()),
                        &mut io::sink(),
                    )?;
                    if skipped < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_frame && !self.next_frame()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            #[cfg(feature = "checksum")]
            if let Some(expected) = self.decoder.get_checksum_from_data()
                && self.decoder.get_calculated_checksum() != Some(expected)
            {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the checksum in the stream is another one",
                ));
            }
            self.in_frame = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    use std::io::Write;

    fn plain(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Plain::new(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("into memory");
        encoder.finish().expect("into memory")
    }

    #[test]
    fn reads_every_form_and_several_in_a_row() {
        let zstd = |bytes: &[u8]| compress_to_vec(bytes, CompressionLevel::Fastest);
        let skippable = [0x52, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9];
        let text = b"some text, some text, some text".repeat(1000);
        let twice = [text.as_slice(), text.as_slice()].concat();
        assert_eq!(plain(&text).unwrap(), text);
        assert_eq!(plain(b"").unwrap(), b"");
        assert_eq!(plain(&[gzip(&text), gzip(&text)].concat()).unwrap(), twice);
        let frames = [&skippable, zstd(&text).as_slice(), &skippable, &zstd(&text)].concat();
        assert_eq!(plain(&frames).unwrap(), twice);
    }

    #[test]
    fn what_is_cut_off_or_broken_is_an_error() {
        let text = b"some text, other text, some words".repeat(1000);
        let zstd = compress_to_vec(text.as_slice(), CompressionLevel::Fastest);
        for whole in [gzip(&text), zstd] {
            for cut in [1, 10, whole.len() / 2] {
                assert!(plain(&whole[..whole.len() - cut]).is_err());
            }
        }
        assert!(plain(&[0x28, 0xb5, 0x2f, 0xfd, 0xff, 0xff, 0xff]).is_err());
    }

    #[test]
    fn a_zstd_frame_that_asks_for_too_much_memory_is_refused() {
        // Not a single segment, window descriptor: exponent 16 is 2^26 bytes.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 16 << 3, 0x01, 0, 0];
        let error = plain(&frame).unwrap_err().to_string();
        assert!(error.contains("window"), "{error}");
    }
}
