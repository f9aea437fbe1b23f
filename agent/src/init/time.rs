//! The wall clock of a board without a battery. Nothing hangs on it: apps
//! start in 1970 too, and lines are trusted by pin. It is for people and for
//! what runs in containers.
//!
//! At the start it is set to the latest time that is certainly past: when the
//! system was built, when the clock was last right. Once there is a network,
//! SNTP (RFC 4330) says what it is. The clock is stepped only if it is wrong.

use super::{KEPT_DIR, say, sys};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Asked when the network names no time server.
const USUAL_SERVER: &str = "pool.ntp.org";
/// A clock that is off by less is right.
const RIGHT_MS: u64 = 500;
/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at a clock that is right: a crystal drifts a second or so
/// in a few hours at worst.
const AGAIN_MS: u64 = 4 * 60 * 60 * 1000;
/// First wait after a failure; it doubles.
const FIRST_RETRY_MS: u64 = 2_000;
/// Longest wait after a failure.
const MAX_RETRY_MS: u64 = 15 * 60 * 1000;
/// The time that is kept is written anew when it is so much older.
const KEEP_MS: u64 = 24 * 60 * 60 * 1000;
/// Seconds from 1900, where NTP begins, to 1970.
const NTP_TO_UNIX: u64 = 2_208_988_800;
/// Bytes of an SNTP message.
const MESSAGE_BYTES: usize = 48;

/// Keeps the wall clock right.
#[derive(Debug)]
pub struct WallClock {
    server: Option<String>,
    asking: Option<Receiver<Result<u64, String>>>,
    next_ms: u64,
    failures: u32,
    /// What is on the disk.
    kept_ms: u64,
    /// Whether a server has said the time since the start.
    known: bool,
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

fn kept_file() -> PathBuf {
    Path::new(KEPT_DIR).join("clock")
}

impl WallClock {
    /// Sets the clock to what is certainly past. `server` replaces all others.
    pub fn start(server: Option<String>) -> Self {
        let kept_ms = read_number(&kept_file());
        let built = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let built = built.lines().find_map(|l| l.strip_prefix("BUILD_EPOCH="));
        let built_ms = built.and_then(|t| t.parse::<u64>().ok()).unwrap_or(0) * 1000;
        let floor = kept_ms.max(built_ms);
        if wall_ms() < floor {
            say(
                sys::set_clock(floor),
                "set to the time of the last shutdown or build",
            );
        }
        Self {
            server,
            asking: None,
            next_ms: 0,
            failures: 0,
            kept_ms,
            known: false,
        }
    }

    /// When [`WallClock::wake`] is due, given a network.
    pub fn wake_at(&self, now_ms: u64) -> u64 {
        match self.asking {
            // An answer is looked for.
            Some(_) => now_ms + 200,
            None => self.next_ms,
        }
    }

    /// Asks for the time if it is due, and takes an answer.
    pub fn wake(&mut self, now_ms: u64, servers: &[Ipv4Addr]) {
        match self.asking.as_ref().map(Receiver::try_recv) {
            Some(Err(TryRecvError::Empty)) => {}
            Some(Ok(Ok(wall))) => {
                self.asking = None;
                self.failures = 0;
                self.next_ms = now_ms + AGAIN_MS;
                self.take(wall);
            }
            Some(Ok(Err(_)) | Err(TryRecvError::Disconnected)) => {
                self.asking = None;
                let wait = FIRST_RETRY_MS << self.failures.min(20);
                self.next_ms = now_ms + wait.min(MAX_RETRY_MS);
                self.failures += 1;
            }
            None if now_ms >= self.next_ms => self.asking = Some(self.ask(servers)),
            None => {}
        }
    }

    fn ask(&self, servers: &[Ipv4Addr]) -> Receiver<Result<u64, String>> {
        let named: Vec<String> = match &self.server {
            Some(server) => vec![server.clone()],
            None if servers.is_empty() => vec![USUAL_SERVER.to_string()],
            None => servers.iter().map(Ipv4Addr::to_string).collect(),
        };
        let (answer, answers) = channel();
        // A thread, because looking up a name blocks. It ends with its answer.
        let started = std::thread::Builder::new()
            .name("sntp".into())
            .stack_size(128 * 1024)
            .spawn(move || {
                let mut last = Err("no server".to_string());
                for server in named {
                    last = ask(&server).map_err(|e| format!("{server}: {e}"));
                    if last.is_ok() {
                        break;
                    }
                }
                let _ = answer.send(last);
            });
        // Without a thread the sender is gone, and that is a failure.
        drop(started);
        answers
    }

    fn take(&mut self, wall: u64) {
        let off = wall.abs_diff(wall_ms());
        if off > RIGHT_MS {
            say(sys::set_clock(wall), "set by SNTP");
        }
        if let Err(error) = sys::clock_is_right() {
            say::trouble(&format!(
                "the kernel cannot be told that the clock is right: {error}"
            ));
        }
        let first = !std::mem::replace(&mut self.known, true);
        if first || wall.saturating_sub(self.kept_ms) > KEEP_MS {
            self.keep(wall);
        }
    }

    fn keep(&mut self, wall: u64) {
        // One a day at most is a write that the card can bear. Where it is
        // full or broken, the next start is a little further in the past.
        if wall.saturating_sub(self.kept_ms) > KEEP_MS {
            self.kept_ms = wall;
            let _ = write_number(&kept_file(), wall);
        }
    }

    /// The machine goes down: the next start begins no earlier.
    pub fn stop(&self) {
        let now = wall_ms();
        if self.known && now > self.kept_ms {
            let _ = write_number(&kept_file(), now);
        }
    }
}

fn say(result: io::Result<()>, how: &str) {
    match result {
        Ok(()) => say::news(&format!("clock {how}")),
        Err(error) => say::trouble(&format!("the clock cannot be set: {error}")),
    }
}

fn read_number(path: &Path) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn write_number(path: &Path, number: u64) -> io::Result<()> {
    super::slots::replace(path, format!("{number}\n").as_bytes())
}

fn ask(server: &str) -> io::Result<u64> {
    let address = match server.contains(':') {
        true => server.to_socket_addrs()?.next(),
        false => (server, 123).to_socket_addrs()?.next(),
    };
    let address = address.ok_or_else(|| io::Error::other("no address"))?;
    let any = match address.is_ipv4() {
        true => "0.0.0.0:0",
        false => "[::]:0",
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut nonce = [0; 8];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    let mut question = [0; MESSAGE_BYTES];
    // Version 4, client. The time of sending is random: the answer repeats it,
    // so that nobody who does not see the question can answer.
    question[0] = 4 << 3 | 3;
    question[40..].copy_from_slice(&nonce);
    socket.send(&question)?;
    let mut answer = [0; MESSAGE_BYTES];
    let count = socket.recv(&mut answer)?;
    parse(&answer[..count], nonce).ok_or_else(|| io::Error::other("no answer of a time server"))
}

/// The server's time of sending, in milliseconds since 1970.
fn parse(answer: &[u8], nonce: [u8; 8]) -> Option<u64> {
    let answer: &[u8; MESSAGE_BYTES] = answer.try_into().ok()?;
    let (leap, mode, stratum) = (answer[0] >> 6, answer[0] & 7, answer[1]);
    // 3: its own clock is not set. Stratum 0 is "go away".
    if leap == 3 || mode != 4 || !(1..=15).contains(&stratum) || answer[24..32] != nonce {
        return None;
    }
    let word = |at: usize| {
        u32::from_be_bytes([answer[at], answer[at + 1], answer[at + 2], answer[at + 3]])
    };
    let (secs, fraction) = (u64::from(word(40)), u64::from(word(44)));
    // The count of seconds begins anew in February 2036.
    let era = if secs < NTP_TO_UNIX { 1 << 32 } else { 0 };
    let unix = (secs + era).checked_sub(NTP_TO_UNIX)?;
    Some(unix * 1000 + ((fraction * 1000) >> 32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(secs: u32) -> [u8; MESSAGE_BYTES] {
        let mut answer = [0; MESSAGE_BYTES];
        answer[0] = 4 << 3 | 4;
        answer[1] = 2;
        answer[24..32].copy_from_slice(&[7; 8]);
        answer[40..44].copy_from_slice(&secs.to_be_bytes());
        answer[44..48].copy_from_slice(&0x8000_0000_u32.to_be_bytes());
        answer
    }

    #[test]
    fn reads_the_time_also_after_2036() {
        let now = 1_800_000_000_u64;
        let secs = (now + NTP_TO_UNIX) as u32;
        assert_eq!(parse(&answer(secs), [7; 8]), Some(now * 1000 + 500));
        // 2040 is in the second count.
        let later = 2_208_988_800_u64;
        let secs = (later + NTP_TO_UNIX) as u32;
        assert_eq!(parse(&answer(secs), [7; 8]), Some(later * 1000 + 500));
    }

    #[test]
    fn believes_no_answer_that_is_not_one() {
        let good = answer(4_000_000_000);
        assert!(parse(&good, [7; 8]).is_some());
        assert_eq!(parse(&good, [8; 8]), None);
        assert_eq!(parse(&good[..47], [7; 8]), None);
        for (at, value) in [(0, 0xc0 | 4 << 3 | 4), (0, 4 << 3 | 3), (1, 0), (1, 16)] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(parse(&bad, [7; 8]), None, "byte {at}");
        }
    }
}
