//! A time zone as POSIX writes it in `TZ` (POSIX.1-2017, 8.3, with RFC 9636's
//! hours from -167 to 167): the rule that holds from now on, a few dozen bytes,
//! so that a device needs no database that somebody has to keep up to date.
//!
//! `CET-1CEST,M3.5.0,M10.5.0/3` reads: an hour east of UTC; two from the last
//! Sunday of March at 2 until the last Sunday of October at 3.

use crate::calendar::{civil_from_days, days_from_civil, weekday};
use std::fmt;
use std::str::FromStr;

/// Longest rule, in bytes: the longest of the IANA database has 40.
pub const MAX_RULE_BYTES: usize = 64;
/// Minutes of a day.
pub(crate) const DAY: i64 = 24 * 60;
/// Farthest from UTC that a zone may be, in minutes.
const MAX_OFFSET: i64 = 25 * 60;
/// Farthest from midnight that a change may be, in minutes.
const MAX_CHANGE: i64 = 167 * 60;

/// A rule of local time. Offsets are in minutes east of UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zone {
    standard: i64,
    summer: Option<Summer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Summer {
    offset: i64,
    begins: Change,
    ends: Change,
}

/// A day of the year, and minutes after its beginning by the clock as it goes
/// before the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Change {
    day: Day,
    minute: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Day {
    /// From 1; February 29 is never counted.
    WithoutLeap(i64),
    /// From 0; February 29 is counted.
    WithLeap(i64),
    /// Of a month from 1, in which week of it from 1, and a weekday from 0 for
    /// Sunday; the fifth is the last.
    Weekday { month: i64, week: i64, day: i64 },
}

/// A rule that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no rule of a time zone as POSIX writes it")]
pub struct ZoneError(String);

/// A stretch of time, in minutes since 1970 in UTC, in which one offset holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Its first minute.
    pub begins: i64,
    /// The first minute after it.
    pub ends: i64,
    /// Minutes east of UTC.
    pub offset: i64,
}

impl Zone {
    /// UTC.
    pub const UTC: Zone = Zone {
        standard: 0,
        summer: None,
    };

    /// The stretch that a minute since 1970 in UTC lies in.
    pub fn stretch(&self, minute: i64) -> Stretch {
        let Some(summer) = self.summer else {
            return Stretch {
                begins: i64::MIN,
                ends: i64::MAX,
                offset: self.standard,
            };
        };
        let (year, ..) = civil_from_days(minute.div_euclid(DAY));
        // Where both fall on one minute, it is summer all year: that comes last.
        let mut changes: Vec<(i64, bool)> = Vec::with_capacity(6);
        for year in year - 1..=year + 1 {
            changes.push((summer.ends.local(year) - summer.offset, false));
            changes.push((summer.begins.local(year) - self.standard, true));
        }
        changes.sort_unstable();
        let before = changes.iter().rev().find(|(at, _)| *at <= minute);
        let after = changes.iter().find(|(at, _)| *at > minute);
        let (begins, is_summer) = *before.expect("a change in the year before");
        Stretch {
            begins,
            ends: after.expect("a change in the year after").0,
            offset: if is_summer {
                summer.offset
            } else {
                self.standard
            },
        }
    }
}

impl Change {
    /// Minutes since 1970 by the local clock.
    fn local(&self, year: i64) -> i64 {
        let first = days_from_civil(year, 1, 1);
        let leap = days_from_civil(year + 1, 1, 1) - first == 366;
        let day = match self.day {
            Day::WithoutLeap(day) => first + day - 1 + i64::from(leap && day >= 60),
            Day::WithLeap(day) => first + day,
            Day::Weekday { month, week, day } => {
                let first = days_from_civil(year, month, 1);
                let mut found = first + (day - weekday(first)).rem_euclid(7) + (week - 1) * 7;
                let next = match month {
                    12 => days_from_civil(year + 1, 1, 1),
                    _ => days_from_civil(year, month + 1, 1),
                };
                while found >= next {
                    found -= 7;
                }
                found
            }
        };
        day * DAY + self.minute
    }
}

impl FromStr for Zone {
    type Err = ZoneError;

    fn from_str(text: &str) -> Result<Self, ZoneError> {
        let no = || ZoneError(text.chars().take(MAX_RULE_BYTES).collect());
        if text.len() > MAX_RULE_BYTES {
            return Err(no());
        }
        let mut rest = Rest(text);
        rest.zone().filter(|_| rest.0.is_empty()).ok_or_else(no)
    }
}

impl fmt::Display for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.offset < 0 { '-' } else { '+' };
        let offset = self.offset.abs();
        write!(f, "{sign}{:02}:{:02}", offset / 60, offset % 60)
    }
}

/// What has not been read yet.
struct Rest<'a>(&'a str);

impl Rest<'_> {
    fn zone(&mut self) -> Option<Zone> {
        self.name()?;
        // POSIX counts westwards.
        let standard = -self.time(MAX_OFFSET)?;
        if self.0.is_empty() {
            return Some(Zone {
                standard,
                summer: None,
            });
        }
        self.name()?;
        let offset = match self.0.starts_with(',') {
            true => standard + 60,
            false => -self.time(MAX_OFFSET)?,
        };
        let begins = self.change()?;
        let ends = self.change()?;
        Some(Zone {
            standard,
            summer: Some(Summer {
                offset,
                begins,
                ends,
            }),
        })
    }

    fn take(&mut self, wanted: char) -> bool {
        match self.0.strip_prefix(wanted) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn name(&mut self) -> Option<()> {
        let quoted = self.take('<');
        let in_name = |c: char| {
            c.is_ascii_alphabetic() || quoted && (c.is_ascii_digit() || matches!(c, '+' | '-'))
        };
        let end = self.0.find(|c| !in_name(c)).unwrap_or(self.0.len());
        self.0 = &self.0[end..];
        (end >= 3 && (!quoted || self.take('>'))).then_some(())
    }

    fn number(&mut self, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        let digit = |c: char| !c.is_ascii_digit();
        let end = self.0.find(digit).unwrap_or(self.0.len());
        let (number, rest) = self.0.split_at(end);
        self.0 = rest;
        // No number of a rule has more than three digits.
        let number = number.get(..3.min(end)).filter(|n| n.len() == end)?;
        number.parse().ok().filter(|n| range.contains(n))
    }

    /// Minutes. Seconds have to be 0: no zone has had others since 1972.
    fn time(&mut self, most: i64) -> Option<i64> {
        let minus = self.take('-');
        if !minus {
            self.take('+');
        }
        let mut minutes = self.number(0..=167)? * 60;
        if self.take(':') {
            minutes += self.number(0..=59)?;
            if self.take(':') {
                self.number(0..=0)?;
            }
        }
        (minutes <= most).then_some(if minus { -minutes } else { minutes })
    }

    fn change(&mut self) -> Option<Change> {
        if !self.take(',') {
            return None;
        }
        let day = if self.take('J') {
            Day::WithoutLeap(self.number(1..=365)?)
        } else if self.take('M') {
            let month = self.number(1..=12)?;
            let week = self.take('.').then(|| self.number(1..=5))??;
            let day = self.take('.').then(|| self.number(0..=6))??;
            Day::Weekday { month, week, day }
        } else {
            Day::WithLeap(self.number(0..=365)?)
        };
        let minute = match self.take('/') {
            true => self.time(MAX_CHANGE)?,
            false => 2 * 60,
        };
        Some(Change { day, minute })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(year: i64, month: i64, day: i64, hour: i64, minute: i64) -> i64 {
        days_from_civil(year, month, day) * DAY + hour * 60 + minute
    }

    fn changes(rule: &str, year: i64) -> Vec<(i64, i64)> {
        let zone: Zone = rule.parse().unwrap();
        let mut found = Vec::new();
        let mut from = at(year, 1, 1, 0, 0);
        loop {
            let stretch = zone.stretch(from);
            assert!(stretch.begins <= from && from < stretch.ends);
            if stretch.ends >= at(year + 1, 1, 1, 0, 0) {
                return found;
            }
            found.push((stretch.ends, zone.stretch(stretch.ends).offset));
            from = stretch.ends;
        }
    }

    #[test]
    fn zones_change_when_the_database_says() {
        // As `zdump -v` prints them for 2027.
        let table = [
            // Berlin, New York, Sydney.
            (
                "CET-1CEST,M3.5.0,M10.5.0/3",
                vec![(at(2027, 3, 28, 1, 0), 120), (at(2027, 10, 31, 1, 0), 60)],
            ),
            (
                "EST5EDT,M3.2.0,M11.1.0",
                vec![(at(2027, 3, 14, 7, 0), -240), (at(2027, 11, 7, 6, 0), -300)],
            ),
            (
                "AEST-10AEDT,M10.1.0,M4.1.0/3",
                vec![(at(2027, 4, 3, 16, 0), 600), (at(2027, 10, 2, 16, 0), 660)],
            ),
            // Lord Howe changes by half an hour, Nuuk before midnight, Dublin's
            // database in "rearguard" form as everybody ships it, Kolkata never.
            (
                "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0",
                vec![(at(2027, 4, 3, 15, 0), 630), (at(2027, 10, 2, 15, 30), 660)],
            ),
            (
                "<-02>2<-01>,M3.5.0/-1,M10.5.0/0",
                vec![(at(2027, 3, 28, 1, 0), -60), (at(2027, 10, 31, 1, 0), -120)],
            ),
            ("IST-5:30", vec![]),
        ];
        for (rule, expected) in table {
            assert_eq!(changes(rule, 2027), expected, "{rule}");
        }
        let all_year: Zone = "XXX3EDT4,0/0,J365/23".parse().unwrap();
        assert_eq!(all_year.stretch(at(2027, 1, 1, 6, 0)).offset, -240);
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in [
            "",
            "CET",
            "CET-",
            "CE-1",
            "CET-26",
            "CET-1CEST",
            "CET-1CEST,M3.5.0",
            "CET-1CEST,M13.5.0,M10.5.0",
            "CET-1CEST,M3.6.0,M10.5.0",
            "CET-1CEST,J366,J1",
            "<+03-3",
            "<+03>-3x",
            "CET-1CEST,M3.5.0/168,M10.5.0",
            "CET-0001",
            "Europe/Berlin",
        ] {
            assert!(text.parse::<Zone>().is_err(), "{text}");
        }
        assert_eq!(
            "Europe/Berlin".parse::<Zone>().unwrap_err().to_string(),
            "'Europe/Berlin' is no rule of a time zone as POSIX writes it"
        );
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reading(text in "\\PC{0,80}") {
            let _ = text.parse::<Zone>();
        }

        #[test]
        fn any_minute_lies_in_its_stretch(rule in rule(), minute in -10_000_000i64..5_000_000_000) {
            let zone: Zone = rule.parse().unwrap();
            let stretch = zone.stretch(minute);
            prop_assert!(stretch.begins <= minute && minute < stretch.ends);
        }
    }

    fn rule() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("CET-1CEST,M3.5.0,M10.5.0/3".to_string()),
            Just("IST-2IDT,M3.4.4/26,M10.5.0".to_string()),
            Just("<-04>4<-03>,M9.1.6/24,M4.1.6/24".to_string()),
            Just("AAA3BBB,J1,J365".to_string()),
            Just("AAA3BBB,0,365".to_string()),
            (0i64..25).prop_map(|h| format!("AAA{h}")),
        ]
    }
}
