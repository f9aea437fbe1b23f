//! The machine's end of a stream: output within credit, input as it comes.

use skerry_wire::StreamId;
use skerry_wire::stream::{Channel, Frame};
use smol::channel::{Receiver, Sender, bounded, unbounded};
use std::cell::Cell;
use std::rc::Rc;

/// Input of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamInput {
    /// Bytes. Bounded by the credit that the core gives.
    Data(Vec<u8>),
    /// The terminal's new size.
    Resize(u16, u16),
    /// No more comes.
    Close,
}

/// What a stream has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamOutput {
    /// Bytes.
    Data(StreamId, Channel, Vec<u8>),
    /// So much input was taken.
    Taken(StreamId, u32),
}

#[derive(Debug)]
struct Credit {
    bytes: Cell<u64>,
    more: Receiver<()>,
}

/// What the engine holds of a stream. Dropping it ends the stream.
#[derive(Debug)]
pub struct StreamHandle {
    credit: Rc<Credit>,
    wake: Sender<()>,
    input: Sender<StreamInput>,
}

/// What the task of a stream holds.
#[derive(Debug)]
pub struct StreamEnd {
    id: StreamId,
    credit: Rc<Credit>,
    input: Receiver<StreamInput>,
    output: Sender<StreamOutput>,
}

/// Both ends of a stream. `output` is shared by all streams and bounded: while
/// the engine does not read it, streams wait.
pub fn stream(
    id: StreamId,
    credit: u32,
    output: Sender<StreamOutput>,
) -> (StreamHandle, StreamEnd) {
    let (wake, more) = bounded(1);
    let (input_in, input) = unbounded();
    let credit = Rc::new(Credit {
        bytes: Cell::new(credit.into()),
        more,
    });
    let handle = StreamHandle {
        credit: credit.clone(),
        wake,
        input: input_in,
    };
    let end = StreamEnd {
        id,
        credit,
        input,
        output,
    };
    (handle, end)
}

impl StreamHandle {
    /// So much more may be said.
    pub fn grant(&self, bytes: u32) {
        let credit = &self.credit.bytes;
        credit.set(credit.get().saturating_add(bytes.into()));
        let _ = self.wake.try_send(());
    }

    /// Gives it input.
    pub fn input(&self, input: StreamInput) {
        let _ = self.input.try_send(input);
    }
}

impl StreamEnd {
    /// Says bytes, in pieces, each when there is credit. False when nobody
    /// listens any more.
    pub async fn say(&self, channel: Channel, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let credit = self.credit.bytes.get();
            let room = usize::try_from(credit).unwrap_or(usize::MAX);
            let length = bytes.len().min(room).min(Frame::MAX_DATA_BYTES);
            if length == 0 {
                if self.credit.more.recv().await.is_err() {
                    return false;
                }
                continue;
            }
            self.credit.bytes.set(credit - length as u64);
            let (piece, rest) = bytes.split_at(length);
            let output = StreamOutput::Data(self.id, channel, piece.to_vec());
            if self.output.send(output).await.is_err() {
                return false;
            }
            bytes = rest;
        }
        true
    }

    /// The next input; `None` when nobody gives any more.
    pub async fn input(&self) -> Option<StreamInput> {
        self.input.recv().await.ok()
    }

    /// So much input was taken.
    pub async fn taken(&self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let _ = self.output.send(StreamOutput::Taken(self.id, bytes)).await;
    }
}
