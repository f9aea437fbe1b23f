//! Streams that the hub opens: logs and processes. Frames are numbered, data
//! is sent within credit, and a lost frame ends the stream.

use super::event::Effect;
use skerry_wire::StreamId;
use skerry_wire::stream::{Channel, End, Frame, FrameBody};
use std::collections::BTreeMap;

/// Streams at one time: each costs a task, and a process its pipes.
pub const MAX_STREAMS: usize = 16;
/// Input of a process that may be on its way, in bytes.
const INPUT_WINDOW_BYTES: u32 = 64 * 1024;

/// Frames to send and things to do, each in order.
#[derive(Debug, Default, PartialEq)]
pub struct Steps {
    /// To the hub.
    pub frames: Vec<Frame>,
    /// To the shell.
    pub effects: Vec<Effect>,
}

/// What runs at the device's end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// A log that is read.
    Log,
    /// A process.
    Exec,
    /// Named volumes.
    Volume,
}

#[derive(Debug, Clone)]
struct Stream {
    kind: StreamKind,
    /// Number of the next frame that we send.
    next_out: u32,
    /// Number of the next frame that we expect.
    next_in: u32,
    /// Input that the hub may still send.
    input_credit: u32,
    /// Input that was taken and not given back as credit.
    taken: u32,
}

/// All that are open.
#[derive(Debug, Clone, Default)]
pub struct Streams {
    open: BTreeMap<StreamId, Stream>,
}

impl Streams {
    /// Whether this one is open.
    pub fn contains(&self, id: StreamId) -> bool {
        self.open.contains_key(&id)
    }

    /// Why no further one may be opened under this number, if so.
    pub fn refuse(&self, id: StreamId) -> Option<String> {
        if !id.0.is_multiple_of(2) {
            return Some("the hub's streams have even numbers".into());
        }
        if self.open.contains_key(&id) {
            return Some("this stream is open already".into());
        }
        (self.open.len() >= MAX_STREAMS)
            .then(|| format!("{MAX_STREAMS} streams are open on this device: close one"))
    }

    /// Opens one that [`Streams::refuse`] did not refuse.
    pub fn open(&mut self, id: StreamId, kind: StreamKind) -> Steps {
        let mut stream = Stream {
            kind,
            next_out: 0,
            next_in: 0,
            input_credit: 0,
            taken: 0,
        };
        let mut steps = Steps::default();
        if kind != StreamKind::Log {
            stream.input_credit = INPUT_WINDOW_BYTES;
            let bytes = INPUT_WINDOW_BYTES;
            steps
                .frames
                .push(stream.frame(id, FrameBody::Credit { bytes }));
        }
        self.open.insert(id, stream);
        steps
    }

    /// Ends one that was never opened: the only frame of it.
    pub fn refused(id: StreamId, reason: String) -> Frame {
        Frame {
            stream: id,
            number: 0,
            body: FrameBody::End(End::Failed(reason)),
        }
    }

    /// Output of ours.
    pub fn output(&mut self, id: StreamId, channel: Channel, bytes: Vec<u8>) -> Steps {
        self.send(id, FrameBody::Data { channel, bytes })
    }

    /// Our end has ended.
    pub fn ended(&mut self, id: StreamId, end: End) -> Steps {
        let steps = self.send(id, FrameBody::End(end));
        self.open.remove(&id);
        steps
    }

    /// The process has taken input.
    pub fn input_taken(&mut self, id: StreamId, bytes: u32) -> Steps {
        let mut steps = Steps::default();
        if let Some(stream) = self.open.get_mut(&id) {
            stream.taken = stream.taken.saturating_add(bytes);
            if stream.taken >= INPUT_WINDOW_BYTES / 2 {
                let bytes = std::mem::take(&mut stream.taken);
                stream.input_credit = stream.input_credit.saturating_add(bytes);
                steps
                    .frames
                    .push(stream.frame(id, FrameBody::Credit { bytes }));
            }
        }
        steps
    }

    fn send(&mut self, id: StreamId, body: FrameBody) -> Steps {
        let mut steps = Steps::default();
        if let Some(stream) = self.open.get_mut(&id) {
            steps.frames.push(stream.frame(id, body));
        }
        steps
    }

    fn fail(&mut self, id: StreamId, end: End) -> Steps {
        let mut steps = self.ended(id, end);
        steps.effects.push(Effect::StreamClose { stream: id });
        steps
    }

    /// A frame of the hub on one that is open.
    pub fn heard(&mut self, frame: Frame) -> Steps {
        let id = frame.stream;
        let Some(stream) = self.open.get_mut(&id) else {
            return Steps::default();
        };
        if frame.number < stream.next_in {
            return Steps::default(); // delivered twice
        }
        if frame.number > stream.next_in {
            return self.fail(id, End::Lost);
        }
        stream.next_in = stream.next_in.saturating_add(1);
        let mut steps = Steps::default();
        match (frame.body, stream.kind) {
            (FrameBody::Credit { bytes }, _) => {
                steps
                    .effects
                    .push(Effect::StreamCredit { stream: id, bytes });
            }
            (FrameBody::End(_), _) => {
                self.open.remove(&id);
                steps.effects.push(Effect::StreamClose { stream: id });
            }
            (
                FrameBody::Data {
                    channel: Channel::Input,
                    bytes,
                },
                StreamKind::Exec | StreamKind::Volume,
            ) => {
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                match stream.input_credit.checked_sub(length) {
                    Some(left) => {
                        stream.input_credit = left;
                        steps
                            .effects
                            .push(Effect::StreamInput { stream: id, bytes });
                    }
                    None => return self.fail(id, End::Failed("more input than credit".into())),
                }
            }
            (FrameBody::Resize { columns, rows }, StreamKind::Exec) => {
                steps.effects.push(Effect::StreamResize {
                    stream: id,
                    columns,
                    rows,
                });
            }
            (FrameBody::CloseInput, StreamKind::Exec | StreamKind::Volume) => {
                steps.effects.push(Effect::StreamCloseInput { stream: id });
            }
            (
                FrameBody::OpenBlob { .. }
                | FrameBody::Data { .. }
                | FrameBody::Resize { .. }
                | FrameBody::CloseInput,
                StreamKind::Log | StreamKind::Exec | StreamKind::Volume,
            ) => return self.fail(id, End::Failed("a frame that does not belong here".into())),
        }
        steps
    }

    /// Ends all of them on our side: nobody hears us any more.
    pub fn close_all(&mut self) -> Vec<Effect> {
        let ids = std::mem::take(&mut self.open).into_keys();
        ids.map(|stream| Effect::StreamClose { stream }).collect()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

impl Stream {
    fn frame(&mut self, stream: StreamId, body: FrameBody) -> Frame {
        let number = self.next_out;
        self.next_out = self.next_out.saturating_add(1);
        Frame {
            stream,
            number,
            body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(number: u32, body: FrameBody) -> Frame {
        Frame {
            stream: StreamId(2),
            number,
            body,
        }
    }

    fn exec() -> Streams {
        let mut streams = Streams::default();
        let steps = streams.open(StreamId(2), StreamKind::Exec);
        assert_eq!(steps.frames.len(), 1);
        streams
    }

    #[test]
    fn a_gap_ends_a_stream_and_a_repeat_does_not() {
        let mut streams = exec();
        assert_eq!(
            streams.heard(frame(0, FrameBody::CloseInput)).effects.len(),
            1
        );
        assert_eq!(
            streams.heard(frame(0, FrameBody::CloseInput)),
            Steps::default()
        );
        let steps = streams.heard(frame(2, FrameBody::CloseInput));
        assert_eq!(steps.frames[0].body, FrameBody::End(End::Lost));
        assert!(streams.is_empty());
    }

    #[test]
    fn input_beyond_the_credit_ends_the_stream() {
        let mut streams = exec();
        let data = |n| {
            let bytes = vec![0; Frame::MAX_DATA_BYTES];
            let channel = Channel::Input;
            frame(n, FrameBody::Data { channel, bytes })
        };
        assert_eq!(streams.heard(data(0)).frames.len(), 0);
        let steps = streams.heard(data(1));
        assert!(matches!(
            steps.frames[0].body,
            FrameBody::End(End::Failed(_))
        ));
        let mut streams = exec();
        streams.heard(data(0));
        let taken = streams.input_taken(StreamId(2), Frame::MAX_DATA_BYTES as u32);
        assert!(matches!(taken.frames[0].body, FrameBody::Credit { .. }));
        assert_eq!(streams.heard(data(1)).frames.len(), 0);
    }

    #[test]
    fn streams_are_bounded() {
        let mut streams = Streams::default();
        for n in 0..MAX_STREAMS as u64 {
            assert_eq!(streams.refuse(StreamId(n * 2)), None);
            streams.open(StreamId(n * 2), StreamKind::Log);
        }
        assert!(streams.refuse(StreamId(1000)).is_some());
        assert!(streams.refuse(StreamId(3)).is_some());
    }
}
