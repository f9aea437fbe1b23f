use super::*;
use crate::calendar::days_from_civil;
use proptest::prelude::*;

/// Minute by minute, and field by field from the text: nothing in common with
/// what is tested but the calendar.
fn is_due(text: &str, zone: &Zone, minute: i64) -> bool {
    let local = minute + zone.stretch(minute).offset;
    let (_, month, day) = civil_from_days(local.div_euclid(DAY));
    let of_day = local.rem_euclid(DAY);
    let now = [
        of_day % 60,
        of_day / 60,
        day,
        month,
        weekday(local.div_euclid(DAY)),
    ];
    let fields: Vec<&str> = text.split(' ').collect();
    let fits = |index: usize| {
        let (low, high) = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)][index];
        let value = |word: &str| word.parse::<i64>().unwrap();
        fields[index].split(',').any(|part| {
            let (range, step) = part.split_once('/').unwrap_or((part, "1"));
            let (first, last) = match (range, range.split_once('-')) {
                ("*", _) => (low, high),
                (_, Some((first, last))) => (value(first), value(last)),
                (one, None) if part.contains('/') => (value(one), high),
                (one, None) => (value(one), value(one)),
            };
            let hit = |at: i64| (first..=last).contains(&at) && (at - first) % value(step) == 0;
            let sunday_as_7 = index == 4 && now[4] == 0 && range != "*" && hit(7);
            hit(now[index]) || sunday_as_7
        })
    };
    let star = |index: usize| {
        let mut parts = fields[index].split(',');
        parts.any(|part| matches!(part, "*" | "*/1"))
    };
    let days = match star(2) || star(4) {
        true => fits(2) && fits(4),
        false => fits(2) || fits(4),
    };
    fits(0) && fits(1) && fits(3) && days
}

fn part(low: u32, high: u32) -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just("*".to_string()),
        3 => (low..=high).prop_map(|n| n.to_string()),
        1 => (1..=high).prop_map(|n| format!("*/{n}")),
        1 => (low..=high, low..=high).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        1 => (low..=high, low..=high, 1..=high)
            .prop_map(|(a, b, n)| format!("{}-{}/{n}", a.min(b), a.max(b))),
        1 => (low..=high, 1..=high).prop_map(|(a, n)| format!("{a}/{n}")),
    ]
}

fn field(low: u32, high: u32) -> impl Strategy<Value = String> {
    prop::collection::vec(part(low, high), 1..3).prop_map(|parts| parts.join(","))
}

fn schedule() -> impl Strategy<Value = String> {
    (
        field(0, 59),
        field(0, 23),
        field(1, 31),
        field(1, 12),
        field(0, 7),
    )
        .prop_map(|(a, b, c, d, e)| format!("{a} {b} {c} {d} {e}"))
}

fn zone() -> impl Strategy<Value = Zone> {
    let rules = [
        "UTC0",
        "CET-1CEST,M3.5.0,M10.5.0/3",
        "EST5EDT,M3.2.0,M11.1.0",
        "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0",
        "<-02>2<-01>,M3.5.0/-1,M10.5.0/0",
        "<+0545>-5:45",
    ];
    prop::sample::select(rules.to_vec()).prop_map(|rule| rule.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn next_and_newest_are_what_counting_minutes_finds(
        text in schedule(),
        zone in zone(),
        // Weeks around the changes of 2027 are as likely as all others together.
        start in prop_oneof![0i64..60 * DAY * 365, around(3, 10), around(3, 26), around(10, 1), around(10, 29), around(11, 5)],
    ) {
        let Ok(schedule) = text.parse::<Schedule>() else {
            // Only a date that no year has, like February 31.
            prop_assert_eq!(text.parse::<Schedule>(), Err(ScheduleError::Never));
            return Ok(());
        };
        const LOOK: i64 = 5 * DAY;
        let found = schedule.next_after(&zone, timestamp(start));
        let naive = (start + 1..=start + LOOK).find(|m| is_due(&text, &zone, *m));
        prop_assert_eq!(
            found.map(minute_of).filter(|m| *m <= start + LOOK), naive, "{} after {}", text, start
        );
        let since = timestamp(start);
        let at = timestamp(start + LOOK);
        let newest = (start + 1..=start + LOOK).rev().find(|m| is_due(&text, &zone, *m));
        prop_assert_eq!(schedule.newest_until(&zone, since, at).map(minute_of), newest);
    }

    #[test]
    fn no_text_breaks_the_reading(text in "[0-9a-z*/,@? -]{0,40}") {
        let _ = text.parse::<Schedule>();
    }

    #[test]
    fn no_clock_breaks_it(at: u64, text in schedule()) {
        if let Ok(schedule) = text.parse::<Schedule>() {
            schedule.next_after(&Zone::UTC, Timestamp(at));
            schedule.newest_until(&Zone::UTC, Timestamp(0), Timestamp(at));
        }
    }
}

fn around(month: i64, day: i64) -> std::ops::Range<i64> {
    let first = days_from_civil(2027, month, day) * DAY;
    first..first + 3 * DAY
}

fn at(year: i64, month: i64, day: i64, hour: i64, minute: i64) -> Timestamp {
    timestamp(days_from_civil(year, month, day) * DAY + hour * 60 + minute)
}

#[test]
fn a_leap_of_the_clock_leaves_out_and_a_step_back_repeats() {
    let berlin: Zone = "CET-1CEST,M3.5.0,M10.5.0/3".parse().unwrap();
    let times = |text: &str, from: Timestamp, count: usize| {
        let schedule: Schedule = text.parse().unwrap();
        let next = |last: &Timestamp| schedule.next_after(&berlin, *last);
        std::iter::successors(next(&from), next)
            .take(count)
            .collect::<Vec<_>>()
    };
    // 02:30 is not there on March 28, 2027.
    assert_eq!(
        times("30 2 * * *", at(2027, 3, 27, 0, 0), 3),
        [
            at(2027, 3, 27, 1, 30),
            at(2027, 3, 29, 0, 30),
            at(2027, 3, 30, 0, 30)
        ]
    );
    // And twice on October 31.
    assert_eq!(
        times("30 2 * * *", at(2027, 10, 30, 12, 0), 3),
        [
            at(2027, 10, 31, 0, 30),
            at(2027, 10, 31, 1, 30),
            at(2027, 11, 1, 1, 30)
        ]
    );
    // Each hour that passes is one.
    assert_eq!(
        times("@hourly", at(2027, 3, 27, 23, 30), 3),
        [
            at(2027, 3, 28, 0, 0),
            at(2027, 3, 28, 1, 0),
            at(2027, 3, 28, 2, 0)
        ]
    );
    assert_eq!(
        times("0 0 29 2 *", at(2027, 1, 1, 0, 0), 1),
        [at(2028, 2, 28, 23, 0)]
    );
}

#[test]
fn names_and_macros_are_read_and_both_kinds_of_days_are_either() {
    let same = |a: &str, b: &str| assert_eq!(a.parse::<Schedule>(), b.parse(), "{a}");
    same("0 0 * JAN-mar Mon,FRI", "0 0 * 1-3 1,5");
    same("0 0 * * 7", "0 0 * * 0");
    same("0 0 * * 5-7", "0 0 * * 0,5,6");
    same("@midnight", "0 0 * * *");
    same("@annually", "0 0 1 1 *");
    same("5/20 * ? * *", "5,25,45 * * * *");
    // Friday, or the 13th.
    let schedule: Schedule = "0 0 13 * 5".parse().unwrap();
    let next = |from| schedule.next_after(&Zone::UTC, from).unwrap();
    assert_eq!(next(at(2027, 1, 8, 0, 0)), at(2027, 1, 13, 0, 0));
    assert_eq!(next(at(2027, 1, 13, 0, 0)), at(2027, 1, 15, 0, 0));
}

#[test]
fn what_is_no_schedule_is_refused_with_its_reason() {
    for (text, reason) in [
        ("", "has 0 fields, not 5"),
        ("* * * *", "has 4 fields, not 5"),
        ("0 * * * * *", "has 6 fields, not 5"),
        ("60 * * * *", "minute '60': is out of range"),
        ("* * 0 * *", "day of month '0': is out of range"),
        ("* 5-3 * * *", "hour '5-3': the range ends before it begins"),
        ("*/0 * * * *", "minute '*/0': a step of 0 goes nowhere"),
        ("* * * foo *", "month 'foo': is no number"),
        ("* * * * L", "day of week 'L': is no number"),
        ("1,,2 * * * *", "minute '1,,2': is no number"),
        ("@reboot", "there is no '@reboot'"),
        (
            "@every 5m",
            "'@every' counts from the last start, which is no time of the day",
        ),
        ("TZ=UTC 0 0 * * *", "names a time zone inside"),
        ("0 0 31 2 *", "no year has such a day"),
    ] {
        let error = text.parse::<Schedule>().unwrap_err();
        assert_eq!(error.to_string(), reason, "{text}");
        assert!(!error.remedy().is_empty());
    }
}
