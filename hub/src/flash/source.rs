//! An OS image as people download it: raw, xz, zst or gz, told apart by its
//! first bytes, and read as one stream in constant memory.

use super::FlashError;
use lzma_rust2::XzReader;
use sha2::{Digest as _, Sha256};
use skerry_layer::Plain;
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;

/// Memory that an xz stream may ask for, in KiB: `xz -9` asks for 64 MiB.
const MAX_XZ_KIB: u32 = 256 * 1024;
const XZ_MAGIC: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];

/// How an image is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Raw,
    /// xz.
    Xz,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Packing {
    /// By the first bytes; the file's name is not asked. What cannot be an
    /// image is refused with what to do.
    fn of(start: &[u8]) -> Result<Self, &'static str> {
        match start {
            s if s.starts_with(&XZ_MAGIC) => Ok(Self::Xz),
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [b'P', b'K', 3, 4, ..] => Err("it is a zip archive: unzip it and give the .img inside"),
            [b'7', b'z', 0xbc, 0xaf, ..] => {
                Err("it is a 7z archive: unpack it (7z x) and give the .img inside")
            }
            [b'B', b'Z', b'h', ..] => Err("it is packed with bzip2: bunzip2 it first"),
            [b'Q', b'F', b'I', 0xfb, ..] => Err(
                "it is a qcow2 disk: convert it with 'qemu-img convert -O raw', or download the raw one",
            ),
            _ => Ok(Self::Raw),
        }
    }

    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Xz => "xz",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// What was taken from the file so far.
#[derive(Default)]
struct Taken {
    bytes: u64,
    hash: Sha256,
}

struct Counted {
    file: File,
    taken: Rc<RefCell<Taken>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        let mut taken = self.taken.borrow_mut();
        taken.bytes += count as u64;
        taken.hash.update(&buffer[..count]);
        Ok(count)
    }
}

enum Stream {
    Plain(Plain<Counted>),
    Xz(Box<XzReader<io::BufReader<Counted>>>),
}

/// An image that is being read.
pub struct Source {
    /// How it is packed.
    pub packing: Packing,
    /// Bytes of the file.
    pub file_bytes: u64,
    stream: Stream,
    taken: Rc<RefCell<Taken>>,
}

impl Source {
    /// Opens it and looks at its first bytes.
    pub fn open(path: &Path) -> Result<Self, FlashError> {
        let error = |source| FlashError::ReadImage {
            path: path.to_owned(),
            source,
        };
        let mut file = File::open(path).map_err(error)?;
        let meta = file.metadata().map_err(error)?;
        let refuse = |why: &str| FlashError::NotAnImage {
            path: path.to_owned(),
            why: why.into(),
        };
        if !meta.is_file() {
            return Err(refuse(
                "it is not a file: give the image that you downloaded",
            ));
        }
        let mut start = Vec::new();
        (&mut file)
            .take(16)
            .read_to_end(&mut start)
            .map_err(error)?;
        let packing = Packing::of(&start).map_err(refuse)?;
        io::Seek::rewind(&mut file).map_err(error)?;
        let taken = Rc::new(RefCell::new(Taken::default()));
        let counted = Counted {
            file,
            taken: taken.clone(),
        };
        let stream = match packing {
            Packing::Xz => {
                let buffered = io::BufReader::with_capacity(1 << 16, counted);
                Stream::Xz(Box::new(XzReader::new_mem_limit(
                    buffered, true, MAX_XZ_KIB,
                )))
            }
            Packing::Raw | Packing::Gzip | Packing::Zstd => {
                Stream::Plain(Plain::new(counted).map_err(error)?)
            }
        };
        Ok(Self {
            packing,
            file_bytes: meta.len(),
            stream,
            taken,
        })
    }

    /// Bytes taken from the file so far.
    pub fn taken_bytes(&self) -> u64 {
        self.taken.borrow().bytes
    }

    /// SHA-256 of the file, in hexadecimal; reads what the decoder left.
    pub fn file_sha256(&mut self) -> io::Result<String> {
        let rest: &mut dyn Read = match &mut self.stream {
            Stream::Plain(plain) => plain,
            Stream::Xz(xz) => xz.as_mut(),
        };
        io::copy(rest, &mut io::sink())?;
        let digest = self.taken.borrow().hash.clone().finalize();
        Ok(super::hex(&digest))
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Plain(plain) => plain.read(buffer),
            Stream::Xz(xz) => xz.read(buffer),
        }
    }
}

/// Fills the buffer as far as the stream goes.
pub fn fill(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
