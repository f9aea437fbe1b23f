//! Questions that a device answers once: what its containers use, and what is
//! wrong with it. Kept in memory only; who asked is told if no answer comes.

use super::{Answer, Fleet, Refused, RefusedKind, RequestId, Turn, refused};
use skerry_wire::finding::Finding;
use skerry_wire::message::{CommandBody, Reply};
use skerry_wire::{DeviceId, Timestamp};
use std::collections::BTreeMap;

/// Questions under way at once.
const MAX_QUESTIONS: usize = 1024;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// What its containers use.
    Usage,
    /// What is wrong with it.
    Doctor,
}

impl About {
    /// How long the device may take, in milliseconds. A diagnosis waits for a
    /// silent network three times.
    fn patience_ms(self) -> u64 {
        match self {
            About::Usage => 10_000,
            About::Doctor => 45_000,
        }
    }

    fn command(self, request: u64, hub_time: Timestamp) -> CommandBody {
        match self {
            About::Usage => CommandBody::Usage { request },
            About::Doctor => CommandBody::Doctor { request, hub_time },
        }
    }
}

/// Who waits for what.
struct Question {
    request: RequestId,
    device: DeviceId,
    about: About,
    asked: Timestamp,
}

/// All that are under way, by number.
pub(super) struct Questions {
    open: BTreeMap<u64, Question>,
    last: u64,
}

impl Questions {
    /// None yet. Numbers rise over restarts, so that a late answer to an
    /// earlier run is no answer to this one.
    pub fn of_start(starts: u32) -> Self {
        Self {
            open: BTreeMap::new(),
            last: u64::from(starts) << 32,
        }
    }
}

impl Fleet {
    pub(super) fn ask(
        &mut self,
        turn: &mut Turn,
        request: RequestId,
        device: DeviceId,
        about: About,
    ) {
        if let Err(no) = self.reachable(&device) {
            return turn.answer(request, Err(no));
        }
        if self.questions.open.len() >= MAX_QUESTIONS {
            let message = "too many questions to devices are under way: try again";
            return turn.answer(request, refused(RefusedKind::TooMany, "Busy", message));
        }
        self.questions.last += 1;
        let id = self.questions.last;
        self.send_command(turn, &device, about.command(id, turn.now));
        let question = Question {
            request,
            device,
            about,
            asked: turn.now,
        };
        self.questions.open.insert(id, question);
    }

    /// Gives up those that took too long.
    pub(super) fn expire_questions(&mut self, turn: &mut Turn) {
        let now = turn.now;
        let is_late = |q: &Question| now.0.abs_diff(q.asked.0) >= q.about.patience_ms();
        for (_, question) in self.questions.open.extract_if(.., |_, q| is_late(q)) {
            let message = format!(
                "device '{}' did not answer within {} s",
                question.device,
                question.about.patience_ms() / 1_000
            );
            let silent = refused(RefusedKind::TimedOut, "DeviceSilent", message);
            turn.answer(question.request, silent);
        }
    }

    /// A device answers. What nobody asked it, or has given up, is nobody's:
    /// there is nothing to answer, and nothing that anybody need know.
    pub(super) fn answered(&mut self, turn: &mut Turn, device: &DeviceId, reply: Reply) {
        let (id, about, answer) = match reply {
            Reply::Usage {
                request,
                containers,
            } => (request, About::Usage, Answer::Usage(containers)),
            Reply::Doctor {
                request,
                mut findings,
            } => {
                findings.truncate(Finding::MAX);
                (request, About::Doctor, Answer::Doctor(findings))
            }
        };
        let is_asked = |q: &Question| q.device == *device && q.about == about;
        if self.questions.open.get(&id).is_some_and(is_asked)
            && let Some(question) = self.questions.open.remove(&id)
        {
            let answer: Result<Answer, Refused> = Ok(answer);
            turn.answer(question.request, answer);
        }
    }
}
