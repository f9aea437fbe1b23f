//! A log as a stream.

use super::StreamEnd;
use crate::core::LogPlace;
use crate::runtime::{LogItem, LogReader, LogStart, Runtime, Section, Stream, Timestamp};
use skerry_wire::calendar::civil_from_days;
use skerry_wire::message::LogsRequest;
use skerry_wire::stream::{Channel, End};
use smol::channel::Receiver;
use std::time::Duration;

/// Bytes gathered before they are said.
const GATHER_BYTES: usize = 16 * 1024;

/// Where to begin, given a request. Seconds count back from the device's
/// clock, as the log's own times do.
fn begin(request: &LogsRequest) -> LogStart {
    match (request.tail, request.since_secs) {
        (Some(lines), _) => LogStart::Tail(lines.into()),
        (None, Some(secs)) => {
            let back = u64::try_from(Duration::from_secs(secs).as_nanos()).unwrap_or(u64::MAX);
            LogStart::Since(Timestamp(Timestamp::now().0.saturating_sub(back)))
        }
        (None, None) => LogStart::Beginning,
    }
}

/// Reads until the end; when following, until what is there when the other end
/// of `over` is dropped: nothing more will be written then.
pub async fn run(
    runtime: &Runtime,
    place: LogPlace,
    request: &LogsRequest,
    over: &Receiver<()>,
    stream: &StreamEnd,
) -> End {
    let (name, persist) = (&place.name, place.persist);
    let mut start = begin(request);
    let mut part = None;
    if let Some(earlier) = place.earlier {
        match runtime.find_section(name, persist, earlier).await {
            Ok(Some(section)) => {
                start = LogStart::Cursor(section.first);
                part = Some(Part::of(section, request.tail));
            }
            Ok(None) => return End::Failed(nothing_earlier(persist)),
            Err(error) => return End::Failed(format!("log {name} cannot be read: {error}")),
        }
    }
    let mut reader = match runtime.log_reader(name, persist, start) {
        Ok(reader) => reader,
        Err(error) => return End::Failed(error.to_string()),
    };
    // Both limits: the tail is cut by time while reading.
    let since = match (request.tail.is_some() || part.is_some(), request.since_secs) {
        (true, Some(_)) => match begin(&LogsRequest {
            tail: None,
            ..request.clone()
        }) {
            LogStart::Since(since) => Some(since),
            LogStart::Beginning | LogStart::Tail(_) | LogStart::Cursor(_) => None,
        },
        _ => None,
    };
    let follow = request.follow.then_some(over);
    let reads = read(&mut reader, request.timestamps, since, part, follow, stream);
    match smol::future::or(reads, gone(stream)).await {
        Ok(end) => end,
        Err(text) => End::Failed(text),
    }
}

/// The output of one start, of those in a log.
struct Part {
    section: Section,
    /// Full lines that are left out at its beginning.
    skip: u64,
}

impl Part {
    fn of(section: Section, tail: Option<u32>) -> Self {
        let skip = tail.map_or(0, |tail| section.lines.saturating_sub(tail.into()));
        Self { section, skip }
    }
}

fn nothing_earlier(persist: bool) -> String {
    let lost = match persist {
        true => "",
        false => {
            ", or the device was restarted (a log outlives that with 'logging: { persist: true }')"
        }
    };
    format!(
        "nothing is kept of an earlier start: it was started once, or newer lines took the room (logging.maxBytes){lost}"
    )
}

/// Ends when nobody wants the stream any more.
async fn gone(stream: &StreamEnd) -> Result<End, String> {
    while stream.input().await.is_some() {}
    Ok(End::Cancelled)
}

async fn read(
    reader: &mut LogReader,
    timestamps: bool,
    since: Option<Timestamp>,
    mut part: Option<Part>,
    mut follow: Option<&Receiver<()>>,
    stream: &StreamEnd,
) -> Result<End, String> {
    let mut gathered: Vec<u8> = Vec::new();
    let mut channel = Channel::Output;
    // Whether the line before was whole, so that a time belongs in front.
    let mut fresh = [true, true];
    loop {
        let read = part
            .as_ref()
            .is_some_and(|p| reader.cursor() >= p.section.end);
        let item = match read {
            true => None,
            false => reader.try_next().map_err(|e| e.to_string())?,
        };
        let item = match item {
            Some(item) => item,
            None => {
                if !stream.say(channel, &std::mem::take(&mut gathered)).await {
                    return Ok(End::Cancelled);
                }
                let Some(over) = follow.filter(|_| !read) else {
                    return Ok(End::Done);
                };
                let ended = async {
                    while over.recv().await.is_ok() {}
                    None
                };
                let more = async { Some(reader.next().await) };
                match smol::future::or(more, ended).await {
                    Some(item) => item.map_err(|e| e.to_string())?,
                    // Once more: something may have come just before.
                    None => {
                        follow = None;
                        continue;
                    }
                }
            }
        };
        let LogItem::Entry(entry) = item else {
            // Rotated away: what is left goes on.
            continue;
        };
        if let Some(part) = &mut part {
            if entry.start != part.section.start {
                continue;
            }
            if part.skip > 0 {
                part.skip -= u64::from(!entry.partial);
                continue;
            }
        }
        if since.is_some_and(|since| entry.at < since) {
            continue;
        }
        let (of, index) = match entry.stream {
            Stream::Stdout => (Channel::Output, 0),
            Stream::Stderr => (Channel::Error, 1),
        };
        if of != channel || gathered.len() >= GATHER_BYTES {
            if !stream.say(channel, &std::mem::take(&mut gathered)).await {
                return Ok(End::Cancelled);
            }
            channel = of;
        }
        if timestamps && fresh[index] {
            gathered.extend_from_slice(rfc3339(entry.at).as_bytes());
            gathered.push(b' ');
        }
        gathered.extend_from_slice(&entry.text);
        fresh[index] = !entry.partial;
        if !entry.partial {
            gathered.push(b'\n');
        }
    }
}

/// `2026-11-21T02:42:35.123Z`.
fn rfc3339(at: Timestamp) -> String {
    let millis = at.0 / 1_000_000;
    let (days, rest) = (millis / 86_400_000, millis % 86_400_000);
    let (year, month, day) = civil_from_days(days as i64);
    let (hours, minutes) = (rest / 3_600_000, rest / 60_000 % 60);
    let (seconds, millis) = (rest / 1_000 % 60, rest % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_763_693_955, "2025-11-21T02:59:15.000Z"),
            (4_102_444_799, "2099-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(rfc3339(Timestamp(secs * 1_000_000_000)), text);
        }
    }
}
