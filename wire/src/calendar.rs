//! Dates of the Gregorian calendar, after Howard Hinnant's "chrono-compatible
//! low-level date algorithms": 400 years have 146,097 days, and a year that
//! begins in March has its leap day at its end.

use crate::id::Timestamp;

/// Seconds of a day.
const DAY_SECS: i64 = 86_400;

/// Days since 1970 of a date: year, month from 1 and day from 1.
pub fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = match month {
        1 | 2 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month from 1 and day from 1 of days since 1970.
pub fn civil_from_days(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        10.. => (year + 1, month - 9),
        _ => (year, month + 3),
    };
    (era * 400 + year, month, day)
}

/// A time as `2027-01-01T02:30:00Z`.
pub fn utc_text(at: Timestamp) -> String {
    let secs = i64::try_from(at.0 / 1_000).unwrap_or(i64::MAX);
    let (year, month, day) = civil_from_days(secs.div_euclid(DAY_SECS));
    let of_day = secs.rem_euclid(DAY_SECS);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The day of the week of a day since 1970; 0 is Sunday.
pub(crate) fn weekday(day: i64) -> i64 {
    // 1970 began on a Thursday.
    (day + 4).rem_euclid(7)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_told_in_utc() {
        let text = |ms| utc_text(Timestamp(ms));
        assert_eq!(text(0), "1970-01-01T00:00:00Z");
        assert_eq!(text(1_830_297_599_999), "2027-12-31T23:59:59Z");
        text(u64::MAX);
    }

    proptest! {
        #[test]
        fn dates_and_days_are_one(day in -800_000i64..3_000_000) {
            let (year, month, of_month) = civil_from_days(day);
            prop_assert!((1..=12).contains(&month) && (1..=31).contains(&of_month));
            prop_assert_eq!(days_from_civil(year, month, of_month), day);
            let (next_year, next_month, next_day) = civil_from_days(day + 1);
            let follows = (next_year, next_month, next_day) == (year, month, of_month + 1)
                || next_day == 1 && (next_month == month + 1 || next_month == 1 && next_year == year + 1);
            prop_assert!(follows);
        }
    }
}
