//! Streams: logs, exec and image blobs beside the state, in frames with
//! credit. A sender sends no more data bytes than it has credit for, so a
//! large log never stands in front of a desired state.

use crate::id::{Digest, StreamId};
use serde::{Deserialize, Serialize};

/// One frame, either way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Which stream.
    pub stream: StreamId,
    /// Counts this sender's frames of this stream from 0. A gap means that
    /// the broker lost one: the receiver ends the stream as [`End::Lost`].
    pub number: u32,
    /// What it carries.
    pub body: FrameBody,
}

/// What a frame carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FrameBody {
    /// Device to hub: send this blob. Answered with [`FrameBody::Data`] on
    /// [`Channel::Output`] and an [`FrameBody::End`].
    OpenBlob {
        /// Which blob; one of an image that this device is assigned.
        digest: Digest,
        /// From this byte on.
        offset: u64,
        /// Bytes that may be sent before more credit comes.
        credit: u32,
    },
    /// Bytes, at most [`Frame::MAX_DATA_BYTES`], never more than the credit.
    Data {
        /// Which of the stream's channels.
        channel: Channel,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// So many more data bytes may be sent.
    Credit {
        /// Added to what is left.
        bytes: u32,
    },
    /// The terminal has a new size.
    Resize {
        /// Columns.
        columns: u16,
        /// Rows.
        rows: u16,
    },
    /// No more input comes.
    CloseInput,
    /// The last frame of its sender; the other side ends too.
    End(End),
}

impl Frame {
    /// Data bytes in one frame.
    pub const MAX_DATA_BYTES: usize = 48 * 1024;
    /// Credit that a receiver gives at first, and keeps topped up.
    pub const WINDOW_BYTES: u32 = 512 * 1024;
}

/// What data belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Channel {
    /// To a process.
    Input,
    /// From a process, a log, a blob.
    Output,
    /// A process' or a log's standard error.
    Error,
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// All was sent.
    Done,
    /// The process ended with this code; 128 + signal when by a signal.
    Exit(i32),
    /// Refused or failed, and why, in words for people.
    Failed(String),
    /// The receiver wants no more.
    Cancelled,
    /// Frames were lost on the way.
    Lost,
}
