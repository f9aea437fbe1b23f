//! When a CronJob is due: five fields, or a name like `@daily`.
//!
//! What is meant is what Kubernetes' library (robfig/cron v3) means: a minute
//! is due if the local clock shows one that the fields match. So a time that
//! the clock leaps over in spring is left out that day, and one that it shows
//! twice in autumn is due twice. When day of month and day of week are both
//! given, one of them is enough; `*/2` counts as given.

use crate::calendar::{civil_from_days, weekday};
use crate::id::Timestamp;
use crate::zone::{DAY, Zone};
use std::str::FromStr;

/// Longest schedule, in bytes.
pub const MAX_SCHEDULE_BYTES: usize = 128;
/// How far is looked for the next or newest time, in minutes: around 2100,
/// February 29 is eight years away.
const HORIZON: i64 = 9 * 366 * DAY;
/// Later than any clock that is not broken: the year 9999, in minutes.
const MAX_MINUTE: i64 = 4_223_371_680;

/// A schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    // A bit for each value.
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    any_day: bool,
    any_weekday: bool,
}

/// Why a text is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Too long.
    #[error("is longer than {MAX_SCHEDULE_BYTES} characters")]
    TooLong,
    /// Not five fields.
    #[error("has {0} fields, not 5")]
    Fields(usize),
    /// A name that there is not.
    #[error("there is no '{0}'")]
    Name(String),
    /// `@every`.
    #[error("'@every' counts from the last start, which is no time of the day")]
    Every,
    /// `TZ=`.
    #[error("names a time zone inside")]
    Zone,
    /// One of the fields.
    #[error("{field} '{text}': {why}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What is written.
        text: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A date that no year has.
    #[error("no year has such a day")]
    Never,
}

impl ScheduleError {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::TooLong | Self::Fields(_) => {
                "write minute, hour, day of month, month and day of week, as in \"30 2 * * 1-5\""
            }
            Self::Name(_) => "write @hourly, @daily, @weekly, @monthly or @yearly",
            Self::Every => {
                "write \"*/5 * * * *\" for every 5 minutes, \"0 */2 * * *\" for every 2 hours"
            }
            Self::Zone => "write it as timeZone, beside schedule",
            Self::Field { .. } => {
                "write a number, *, a range as 1-5, a step as */15, or a list of these as 1,15; months and days of the week may be names: jan, mon"
            }
            Self::Never => "choose a day that comes",
        }
    }
}

struct Field {
    name: &'static str,
    first: u32,
    last: u32,
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &[
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Field; 5] = [
    Field {
        name: "minute",
        first: 0,
        last: 59,
        names: &[],
    },
    Field {
        name: "hour",
        first: 0,
        last: 23,
        names: &[],
    },
    Field {
        name: "day of month",
        first: 1,
        last: 31,
        names: &[],
    },
    Field {
        name: "month",
        first: 1,
        last: 12,
        names: MONTHS,
    },
    // 7 is Sunday too.
    Field {
        name: "day of week",
        first: 0,
        last: 7,
        names: WEEKDAYS,
    },
];

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        if text.len() > MAX_SCHEDULE_BYTES {
            return Err(ScheduleError::TooLong);
        }
        let text = text.trim();
        if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
            return Err(ScheduleError::Zone);
        }
        let text = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            _ if text.starts_with("@every") => return Err(ScheduleError::Every),
            _ if text.starts_with('@') => return Err(ScheduleError::Name(text.into())),
            _ => text,
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let Ok(words) = <[&str; 5]>::try_from(words.as_slice()) else {
            return Err(ScheduleError::Fields(words.len()));
        };
        let mut bits = [(0, false); 5];
        for ((bits, field), word) in bits.iter_mut().zip(&FIELDS).zip(words) {
            *bits = field.read(word).map_err(|why| ScheduleError::Field {
                field: field.name,
                text: word.into(),
                why,
            })?;
        }
        let [minutes, hours, days, months, mut weekdays] = bits;
        weekdays.0 = (weekdays.0 | weekdays.0 >> 7) & 0x7f;
        let schedule = Schedule {
            minutes: minutes.0,
            hours: hours.0,
            days: days.0,
            months: months.0,
            weekdays: weekdays.0,
            any_day: days.1,
            any_weekday: weekdays.1,
        };
        match schedule.next_after(&Zone::UTC, Timestamp(0)) {
            Some(_) => Ok(schedule),
            None => Err(ScheduleError::Never),
        }
    }
}

impl Field {
    /// A bit for each value, and whether the field says nothing.
    fn read(&self, text: &str) -> Result<(u64, bool), &'static str> {
        let (mut bits, mut any) = (0, false);
        for part in text.split(',') {
            let (range, step) = match part.split_once('/') {
                Some((range, step)) => (range, Some(self.step(step)?)),
                None => (part, None),
            };
            let (first, last) = match range.split_once('-') {
                _ if range == "*" || range == "?" => {
                    any |= step.is_none_or(|step| step == 1);
                    // Sunday once.
                    (self.first, if self.last == 7 { 6 } else { self.last })
                }
                Some((first, last)) => (self.value(first)?, self.value(last)?),
                None => {
                    let value = self.value(range)?;
                    // 10/15 means from 10 on.
                    (value, if step.is_some() { self.last } else { value })
                }
            };
            if first > last {
                return Err("the range ends before it begins");
            }
            let step = step.unwrap_or(1) as usize;
            for value in (first..=last).step_by(step) {
                bits |= 1 << value;
            }
        }
        Ok((bits, any))
    }

    fn step(&self, text: &str) -> Result<u32, &'static str> {
        let step = number(text).ok_or("the step is no number")?;
        match step {
            0 => Err("a step of 0 goes nowhere"),
            _ if step > self.last => Err("the step is longer than the whole range"),
            _ => Ok(step),
        }
    }

    fn value(&self, text: &str) -> Result<u32, &'static str> {
        let lower = text.to_ascii_lowercase();
        if let Some(index) = self.names.iter().position(|name| *name == lower) {
            return Ok(index as u32 + self.first);
        }
        let value = number(text).ok_or("is no number")?;
        match (self.first..=self.last).contains(&value) {
            true => Ok(value),
            false => Err("is out of range"),
        }
    }
}

/// At most three digits and nothing else.
fn number(text: &str) -> Option<u32> {
    let digits = (1..=3).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn minute_of(at: Timestamp) -> i64 {
    i64::try_from(at.0 / 60_000)
        .unwrap_or(MAX_MINUTE)
        .min(MAX_MINUTE)
}

fn timestamp(minute: i64) -> Timestamp {
    Timestamp(u64::try_from(minute).unwrap_or(0) * 60_000)
}

impl Schedule {
    /// The first time that is due after this one.
    pub fn next_after(&self, zone: &Zone, at: Timestamp) -> Option<Timestamp> {
        let mut minute = minute_of(at) + 1;
        let end = minute + HORIZON;
        while minute < end {
            let stretch = zone.stretch(minute);
            let last = stretch.ends.min(end) - 1 + stretch.offset;
            if let Some(local) = self.first_from(minute + stretch.offset, last) {
                return Some(timestamp(local - stretch.offset));
            }
            minute = stretch.ends;
        }
        None
    }

    /// The newest time that was due by this one, and after `since`.
    pub fn newest_until(&self, zone: &Zone, since: Timestamp, at: Timestamp) -> Option<Timestamp> {
        let mut minute = minute_of(at);
        let end = (minute - HORIZON).max(minute_of(since));
        while minute > end {
            let stretch = zone.stretch(minute);
            let first = stretch.begins.max(end + 1) + stretch.offset;
            if let Some(local) = self.last_until(minute + stretch.offset, first) {
                return Some(timestamp(local - stretch.offset));
            }
            minute = stretch.begins.saturating_sub(1);
        }
        None
    }

    /// Whether a local day since 1970 is one of them.
    fn is_day(&self, day: i64) -> bool {
        let (_, month, of_month) = civil_from_days(day);
        if self.months & 1 << month == 0 {
            return false;
        }
        let by_day = self.days & 1 << of_month != 0;
        let by_weekday = self.weekdays & 1 << weekday(day) != 0;
        match self.any_day || self.any_weekday {
            true => by_day && by_weekday,
            false => by_day || by_weekday,
        }
    }

    fn first_from(&self, from: i64, until: i64) -> Option<i64> {
        let (mut day, mut minute) = (from.div_euclid(DAY), from.rem_euclid(DAY));
        while day * DAY <= until {
            if self.is_day(day)
                && let Some(found) = self.first_of_day(minute)
            {
                return Some(day * DAY + found).filter(|found| *found <= until);
            }
            day += 1;
            minute = 0;
        }
        None
    }

    fn last_until(&self, until: i64, from: i64) -> Option<i64> {
        let (mut day, mut minute) = (until.div_euclid(DAY), until.rem_euclid(DAY));
        while day * DAY + minute >= from {
            if self.is_day(day)
                && let Some(found) = self.last_of_day(minute)
            {
                return Some(day * DAY + found).filter(|found| *found >= from);
            }
            day -= 1;
            minute = DAY - 1;
        }
        None
    }

    fn first_of_day(&self, from: i64) -> Option<i64> {
        for hour in from / 60..24 {
            if self.hours & 1 << hour == 0 {
                continue;
            }
            let least = if hour == from / 60 { from % 60 } else { 0 };
            let rest = self.minutes & (u64::MAX << least);
            if rest != 0 {
                return Some(hour * 60 + i64::from(rest.trailing_zeros()));
            }
        }
        None
    }

    fn last_of_day(&self, until: i64) -> Option<i64> {
        for hour in (0..=until / 60).rev() {
            if self.hours & 1 << hour == 0 {
                continue;
            }
            let most = if hour == until / 60 { until % 60 } else { 59 };
            let rest = self.minutes & (u64::MAX >> (63 - most));
            if rest != 0 {
                return Some(hour * 60 + 63 - i64::from(rest.leading_zeros()));
            }
        }
        None
    }
}

#[cfg(test)]
#[path = "cron_tests.rs"]
mod tests;
