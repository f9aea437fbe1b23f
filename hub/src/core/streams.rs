//! Streams beside the state: logs and exec between operators and devices, and
//! image blobs to devices. Every side sends within the credit that the other
//! gave, so that none of it stands in front of a desired state.

use super::{
    Answer, Effect, Fleet, Input, Open, RefusedKind, RequestId, StreamOutput, Turn, refused,
};
use skerry_wire::seal::Purpose;
use skerry_wire::stream::{Channel, End, Frame, FrameBody};
use skerry_wire::topic::{Lane, Topic};
use skerry_wire::{DeviceId, Digest, StreamId, Timestamp, encode};
use std::collections::{BTreeMap, VecDeque};

/// Logs and execs of all operators at once.
const MAX_STREAMS: usize = 1_024;
/// Of one device: more would only make it slow.
const MAX_STREAMS_PER_DEVICE: usize = 16;
/// Blobs that one device fetches at once.
const MAX_BLOBS_PER_DEVICE: usize = 8;
/// Blob pieces that are read and not yet sent, of all devices together: at 48
/// KiB each this is what blobs cost in memory, and how far they can stand in
/// front of other messages.
const MAX_READS: usize = 16;
/// A device that was asked for a log up to now answers within this time. A log
/// that is followed and a process may be silent for as long as they like.
const ANSWER_MS: u64 = 20_000;
/// A blob stream whose device gives no credit for so long is ended.
const BLOB_IDLE_MS: u64 = 300_000;

#[derive(Default)]
pub(super) struct Streams {
    next: u64,
    operator: BTreeMap<StreamId, OperatorStream>,
    blobs: BTreeMap<(DeviceId, StreamId), BlobStream>,
    /// Blob streams that could go on, in the order in which they came.
    ready: VecDeque<(DeviceId, StreamId)>,
    reads: usize,
}

/// A log or an exec.
struct OperatorStream {
    device: DeviceId,
    opened: Timestamp,
    /// The device sent something, or need not.
    answered: bool,
    /// The number of the device's next frame.
    expected: u32,
    /// The number of our next frame.
    number: u32,
    /// Bytes that the device may still send.
    granted: u32,
    /// Bytes that reached the operator and were not granted anew.
    consumed: u32,
    /// Bytes that we may still send.
    credit: u64,
    /// The one input that waits for credit.
    waiting: Option<Vec<u8>>,
}

/// A blob on its way to a device.
struct BlobStream {
    digest: Digest,
    offset: u64,
    size: u64,
    credit: u64,
    expected: u32,
    number: u32,
    /// The size of the piece that is being read.
    reading: Option<usize>,
    /// It is in `ready`.
    queued: bool,
    touched: Timestamp,
}

impl Streams {
    /// Numbers that no earlier start of this hub used.
    pub fn of_start(start: u32) -> Self {
        Self {
            next: u64::from(start) << 32,
            ..Self::default()
        }
    }

    pub fn len(&self) -> usize {
        self.operator.len() + self.blobs.len()
    }

    pub fn has(&self, stream: StreamId) -> bool {
        self.operator.contains_key(&stream)
    }
}

/// What a frame leads to.
enum Next {
    Nothing,
    /// End it on both sides.
    End(End),
}

impl Fleet {
    pub(super) fn open_stream(
        &mut self,
        turn: &mut Turn,
        request: RequestId,
        device: DeviceId,
        open: Open,
    ) {
        if let Err(no) = self.reachable(&device) {
            return turn.answer(request, Err(no));
        }
        let streams = self.streams.operator.values();
        let of_device = streams.filter(|s| s.device == device).count();
        if self.streams.operator.len() >= MAX_STREAMS || of_device >= MAX_STREAMS_PER_DEVICE {
            let message =
                format!("too many logs and execs of device '{device}' are open: close some");
            return turn.answer(request, refused(RefusedKind::TooMany, "Busy", message));
        }
        self.streams.next += 1;
        // The hub's are even.
        let id = StreamId(self.streams.next << 1);
        let credit = Frame::WINDOW_BYTES;
        let may_be_silent = match &open {
            Open::Logs { follow, .. } => *follow,
            // A large volume may take its time.
            Open::Exec { .. } | Open::Volume(_) => true,
        };
        let stream = OperatorStream {
            device: device.clone(),
            opened: turn.now,
            answered: may_be_silent,
            expected: 0,
            number: 0,
            granted: credit,
            consumed: 0,
            credit: 0,
            waiting: None,
        };
        self.streams.operator.insert(id, stream);
        turn.answer(request, Ok(Answer::Stream(id)));
        self.send_command(turn, &device, open.command(id, credit));
    }

    pub(super) fn stream_input(&mut self, turn: &mut Turn, id: StreamId, input: Input) {
        let Some(stream) = self.streams.operator.get_mut(&id) else {
            return;
        };
        match input {
            Input::Data(bytes) => {
                if bytes.len() > Frame::MAX_DATA_BYTES || stream.waiting.is_some() {
                    let end = End::Failed("more input than was asked for".into());
                    return self.end_operator_stream(turn, id, end, true);
                }
                stream.waiting = Some(bytes);
                self.send_waiting(turn, id);
            }
            Input::Resize { columns, rows } => {
                self.frame_out(turn, id, FrameBody::Resize { columns, rows });
                let taken = Effect::StreamOut(id, StreamOutput::InputTaken);
                turn.effects.push(taken);
            }
            Input::Close => {
                self.frame_out(turn, id, FrameBody::CloseInput);
                let taken = Effect::StreamOut(id, StreamOutput::InputTaken);
                turn.effects.push(taken);
            }
        }
    }

    /// Sends as much of the waiting input as the device gave credit for.
    fn send_waiting(&mut self, turn: &mut Turn, id: StreamId) {
        let Some(stream) = self.streams.operator.get_mut(&id) else {
            return;
        };
        let Some(mut bytes) = stream.waiting.take() else {
            return;
        };
        let now = bytes.len().min(stream.credit as usize);
        let rest = bytes.split_off(now);
        stream.credit -= now as u64;
        let done = rest.is_empty();
        if !done {
            stream.waiting = Some(rest);
        }
        if now > 0 {
            let channel = Channel::Input;
            self.frame_out(turn, id, FrameBody::Data { channel, bytes });
        }
        if done {
            let taken = Effect::StreamOut(id, StreamOutput::InputTaken);
            turn.effects.push(taken);
        }
    }

    pub(super) fn stream_consumed(&mut self, turn: &mut Turn, id: StreamId, bytes: u32) {
        let Some(stream) = self.streams.operator.get_mut(&id) else {
            return;
        };
        stream.consumed = stream.consumed.saturating_add(bytes);
        // Half a window at a time: few credit frames, never an empty pipe.
        if stream.consumed < Frame::WINDOW_BYTES / 2 {
            return;
        }
        let bytes = std::mem::take(&mut stream.consumed);
        stream.granted = stream.granted.saturating_add(bytes);
        self.frame_out(turn, id, FrameBody::Credit { bytes });
    }

    pub(super) fn close_stream(&mut self, turn: &mut Turn, id: StreamId) {
        if self.streams.operator.contains_key(&id) {
            self.frame_out(turn, id, FrameBody::End(End::Cancelled));
            self.streams.operator.remove(&id);
        }
    }

    fn frame_out(&mut self, turn: &mut Turn, id: StreamId, body: FrameBody) {
        let Some(stream) = self.streams.operator.get_mut(&id) else {
            return;
        };
        let (device, number) = (stream.device.clone(), stream.number);
        stream.number = stream.number.wrapping_add(1);
        self.send_frame(turn, &device, id, number, body);
    }

    fn send_frame(
        &mut self,
        turn: &mut Turn,
        device: &DeviceId,
        stream: StreamId,
        number: u32,
        body: FrameBody,
    ) {
        let Some(found) = self.devices.get(device) else {
            return;
        };
        let to = found.record.key;
        let frame = Frame {
            stream,
            number,
            body,
        };
        let topic = Topic::Device(device.clone(), Lane::StreamIn);
        self.send(turn, to, topic, Purpose::StreamIn, encode(&frame));
    }

    /// Ends a stream for its operator, and for its device when it does not
    /// know yet.
    fn end_operator_stream(&mut self, turn: &mut Turn, id: StreamId, end: End, tell: bool) {
        if tell {
            self.frame_out(turn, id, FrameBody::End(End::Cancelled));
        }
        if self.streams.operator.remove(&id).is_some() {
            let end = StreamOutput::End(end);
            turn.effects.push(Effect::StreamOut(id, end));
        }
    }

    /// A frame of a device.
    pub(super) fn frame(&mut self, turn: &mut Turn, device: &DeviceId, frame: Frame) {
        // A device's own streams are odd.
        if frame.stream.0 % 2 == 1 {
            return self.blob_frame(turn, device, frame);
        }
        let id = frame.stream;
        let Some(stream) = self.streams.operator.get_mut(&id) else {
            // Closed a moment ago: what was on its way still comes.
            return;
        };
        if stream.device != *device {
            let message = "sent on a stream of another device".to_string();
            return self.warn(turn, Some(device), None, "FrameRefused", message);
        }
        if frame.number != stream.expected {
            return self.end_operator_stream(turn, id, End::Lost, true);
        }
        stream.expected = stream.expected.wrapping_add(1);
        stream.answered = true;
        let next = match frame.body {
            FrameBody::Data { channel, bytes } => {
                let too_long = bytes.len() > Frame::MAX_DATA_BYTES;
                if too_long || bytes.len() > stream.granted as usize {
                    Next::End(End::Failed("the device sent more than it may".into()))
                } else {
                    stream.granted -= bytes.len() as u32;
                    let data = StreamOutput::Data(channel, bytes);
                    turn.effects.push(Effect::StreamOut(id, data));
                    Next::Nothing
                }
            }
            FrameBody::Credit { bytes } => {
                stream.credit = stream.credit.saturating_add(u64::from(bytes));
                self.send_waiting(turn, id);
                Next::Nothing
            }
            FrameBody::End(end) => {
                return self.end_operator_stream(turn, id, end, false);
            }
            FrameBody::OpenBlob { .. } | FrameBody::Resize { .. } | FrameBody::CloseInput => {
                Next::End(End::Failed("the device sent what has no sense here".into()))
            }
        };
        match next {
            Next::Nothing => {}
            Next::End(end) => self.end_operator_stream(turn, id, end, true),
        }
    }

    fn blob_frame(&mut self, turn: &mut Turn, device: &DeviceId, frame: Frame) {
        let key = (device.clone(), frame.stream);
        if let FrameBody::OpenBlob {
            digest,
            offset,
            credit,
        } = frame.body
        {
            return self.open_blob(turn, key, digest, offset, credit);
        }
        let Some(stream) = self.streams.blobs.get_mut(&key) else {
            return;
        };
        if frame.number != stream.expected {
            return self.end_blob(turn, &key, Some(End::Lost));
        }
        stream.expected = stream.expected.wrapping_add(1);
        stream.touched = turn.now;
        match frame.body {
            FrameBody::Credit { bytes } => {
                stream.credit = stream.credit.saturating_add(u64::from(bytes));
                self.queue_blob(turn, key);
            }
            FrameBody::End(_) => self.end_blob(turn, &key, None),
            FrameBody::OpenBlob { .. }
            | FrameBody::Data { .. }
            | FrameBody::Resize { .. }
            | FrameBody::CloseInput => {
                let end = End::Failed("what you sent has no sense here".into());
                self.end_blob(turn, &key, Some(end));
            }
        }
    }

    fn open_blob(
        &mut self,
        turn: &mut Turn,
        key: (DeviceId, StreamId),
        digest: Digest,
        offset: u64,
        credit: u32,
    ) {
        let device = &key.0;
        let open = self.streams.blobs.keys().filter(|(d, _)| d == device);
        let found = self.devices.get(device);
        let size = found.and_then(|d| self.blob_size(d, digest));
        let allowed = if open.count() >= MAX_BLOBS_PER_DEVICE {
            Err("too many blobs at once: fetch them one after the other".to_string())
        } else if self.streams.blobs.contains_key(&key) {
            Err("this stream is open already".to_string())
        } else {
            size.ok_or_else(|| format!("{digest} is not of an image of this device"))
        };
        let size = match allowed {
            Ok(size) => size,
            Err(problem) => {
                let end = FrameBody::End(End::Failed(problem.clone()));
                self.send_frame(turn, &key.0, key.1, 0, end);
                let message = format!("asked for a blob and was refused: {problem}");
                return self.warn(turn, Some(&key.0), None, "BlobRefused", message);
            }
        };
        if offset >= size {
            self.send_frame(turn, &key.0, key.1, 0, FrameBody::End(End::Done));
            return;
        }
        let stream = BlobStream {
            digest,
            offset,
            size,
            credit: u64::from(credit),
            expected: 1,
            number: 0,
            reading: None,
            queued: false,
            touched: turn.now,
        };
        self.streams.blobs.insert(key.clone(), stream);
        self.queue_blob(turn, key);
    }

    /// Lets a blob stream wait for its turn, and gives turns while there are.
    fn queue_blob(&mut self, turn: &mut Turn, key: (DeviceId, StreamId)) {
        if let Some(stream) = self.streams.blobs.get_mut(&key)
            && !stream.queued
            && stream.reading.is_none()
            && stream.credit > 0
        {
            stream.queued = true;
            self.streams.ready.push_back(key);
        }
        while self.streams.reads < MAX_READS {
            let Some(key) = self.streams.ready.pop_front() else {
                return;
            };
            let Some(stream) = self.streams.blobs.get_mut(&key) else {
                continue;
            };
            stream.queued = false;
            let left = stream.size - stream.offset;
            let max_bytes = left.min(stream.credit).min(Frame::MAX_DATA_BYTES as u64) as usize;
            stream.reading = Some(max_bytes);
            self.streams.reads += 1;
            turn.effects.push(Effect::ReadBlob {
                digest: stream.digest,
                offset: stream.offset,
                max_bytes,
                device: key.0,
                stream: key.1,
            });
        }
    }

    pub(super) fn blob_read(
        &mut self,
        turn: &mut Turn,
        device: DeviceId,
        stream: StreamId,
        result: Result<Vec<u8>, String>,
    ) {
        // Each read that was asked for comes back exactly once, also when its
        // stream has ended.
        self.streams.reads = self.streams.reads.saturating_sub(1);
        let key = (device, stream);
        let Some(open) = self.streams.blobs.get_mut(&key) else {
            return self.queue_blob(turn, key);
        };
        let Some(asked) = open.reading.take() else {
            return self.queue_blob(turn, key);
        };
        match result {
            Ok(bytes) => {
                if bytes.len() != asked {
                    let why = "a blob is shorter on the hub's disk than it was".to_string();
                    self.warn(turn, Some(&key.0), None, "BlobUnreadable", why.clone());
                    self.end_blob(turn, &key, Some(End::Failed(why)));
                    return self.queue_blob(turn, key);
                }
                open.offset += bytes.len() as u64;
                let last = open.offset >= open.size;
                open.credit = open.credit.saturating_sub(bytes.len() as u64);
                open.touched = turn.now;
                let number = open.number;
                open.number = open.number.wrapping_add(1);
                let channel = Channel::Output;
                let body = FrameBody::Data { channel, bytes };
                self.send_frame(turn, &key.0, key.1, number, body);
                if last {
                    self.end_blob(turn, &key, Some(End::Done));
                }
            }
            Err(message) => {
                let text = format!("the hub cannot read a blob: {message}");
                self.warn(turn, Some(&key.0), None, "BlobUnreadable", text.clone());
                self.end_blob(turn, &key, Some(End::Failed(text)));
            }
        }
        self.queue_blob(turn, key);
    }

    fn end_blob(&mut self, turn: &mut Turn, key: &(DeviceId, StreamId), end: Option<End>) {
        let Some(stream) = self.streams.blobs.remove(key) else {
            return;
        };
        if let Some(end) = end {
            self.send_frame(turn, &key.0, key.1, stream.number, FrameBody::End(end));
        }
    }

    /// The device cannot be reached on its old connection any more.
    pub(super) fn end_streams_of(&mut self, turn: &mut Turn, device: &DeviceId, why: &str) {
        let streams = self.streams.operator.iter();
        let ids: Vec<StreamId> = streams
            .filter(|(_, s)| s.device == *device)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.end_operator_stream(turn, id, End::Failed(why.into()), false);
        }
        self.streams.blobs.retain(|(of, _), _| of != device);
    }

    pub(super) fn end_all_streams(&mut self, turn: &mut Turn, why: &str) {
        let ids: Vec<StreamId> = self.streams.operator.keys().copied().collect();
        for id in ids {
            self.end_operator_stream(turn, id, End::Failed(why.into()), false);
        }
        self.streams.blobs.clear();
    }

    pub(super) fn expire_streams(&mut self, turn: &mut Turn) {
        let now = turn.now.0;
        let streams = self.streams.operator.iter();
        let silent: Vec<StreamId> = streams
            .filter(|(_, s)| !s.answered && now.abs_diff(s.opened.0) >= ANSWER_MS)
            .map(|(id, _)| *id)
            .collect();
        for id in silent {
            let why = "the device did not answer within 20 s: try again".to_string();
            self.end_operator_stream(turn, id, End::Failed(why), true);
        }
        let idle: Vec<(DeviceId, StreamId)> = self
            .streams
            .blobs
            .iter()
            .filter(|(_, s)| now.abs_diff(s.touched.0) >= BLOB_IDLE_MS)
            .map(|(key, _)| key.clone())
            .collect();
        for key in idle {
            let why = "no credit came for 5 minutes".to_string();
            self.end_blob(turn, &key, Some(End::Failed(why)));
        }
    }
}
