//! The frames that logs and exec come in:
//! `[channel u8][length u32 big-endian][bytes]`.

use crate::api::types::channel;

const HEAD_BYTES: usize = 5;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub channel: u8,
    pub bytes: Vec<u8>,
}

/// A frame that says more than [`channel::MAX_FRAME_BYTES`]: not our protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes")]
pub(super) struct TooLong(usize);

/// Bytes as they come, frames as they are whole.
#[derive(Debug, Default)]
pub(super) struct Frames {
    buffer: Vec<u8>,
    start: usize,
}

impl Frames {
    /// Takes bytes in.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one.
    pub fn next(&mut self) -> Result<Option<Frame>, TooLong> {
        let rest = &self.buffer[self.start..];
        let Some((head, body)) = rest.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let [channel, a, b, c, d] = *head;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > channel::MAX_FRAME_BYTES {
            return Err(TooLong(length));
        }
        let Some(bytes) = body.get(..length) else {
            return Ok(None);
        };
        let frame = Frame {
            channel,
            bytes: bytes.to_vec(),
        };
        self.start += HEAD_BYTES + length;
        Ok(Some(frame))
    }
}

/// A frame as bytes; `bytes` has to fit.
pub(super) fn encode(channel: u8, bytes: &[u8]) -> Vec<u8> {
    debug_assert!(bytes.len() <= channel::MAX_FRAME_BYTES);
    let mut out = vec![channel];
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_however_the_bytes_come_in() {
        let mut bytes = encode(1, b"hello");
        bytes.extend(encode(0, b""));
        bytes.extend(encode(4, &7i32.to_be_bytes()));
        for step in 1..bytes.len() {
            let mut frames = Frames::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(step) {
                frames.push(piece);
                while let Some(frame) = frames.next().unwrap() {
                    found.push((frame.channel, frame.bytes));
                }
            }
            assert_eq!(
                found,
                [(1, b"hello".to_vec()), (0, vec![]), (4, vec![0, 0, 0, 7])]
            );
        }
        let mut frames = Frames::default();
        frames.push(b"HTTP/");
        assert!(frames.next().is_err());
    }
}
