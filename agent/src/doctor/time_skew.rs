//! How far is the clock from the hub's? The hub says its time as it asks for a
//! diagnosis; the time that the question was on its way counts against us.

use super::{Finding, Verdict, clock_source};
use crate::facts::Host;

const KIND: &str = "TimeSkew";
/// What a slow line may take, and nobody misses in a log.
const SKEW_MS: u64 = 30_000;

/// Judges a clock that is `ahead_ms` milliseconds ahead of the hub's.
pub fn find(host: &Host, ahead_ms: i64) -> Finding {
    let skew_ms = ahead_ms.unsigned_abs();
    if skew_ms <= SKEW_MS {
        return Finding::good(KIND, "the clock agrees with the hub's");
    }
    let side = if ahead_ms > 0 { "ahead of" } else { "behind" };
    Finding::new(
        KIND,
        Verdict::Poor,
        format!(
            "the clock is {} {side} the hub's: one of them is wrong",
            span(skew_ms / 1000)
        ),
        clock_source::remedy(host),
    )
}

fn span(secs: u64) -> String {
    match secs {
        0..600 => format!("{secs} s"),
        600..36_000 => format!("{} min", (secs + 30) / 60),
        36_000..864_000 => format!("{} h", (secs + 1_800) / 3_600),
        _ => format!("{} days", secs.saturating_add(43_200) / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::Tree;

    #[test]
    fn both_directions_are_told() {
        let tree = Tree::new(&[]);
        let host = tree.host();
        assert_eq!(find(&host, -29_000).verdict, Verdict::Good);
        assert!(find(&host, 45_000).text.contains("45 s ahead of"));
        // The time on the way makes it a little less than what it is.
        let days = find(&host, -86_400_000 * 3 + 20);
        assert!(days.text.contains("72 h behind"), "{}", days.text);
        assert!(
            find(&host, -86_400_000 * 400)
                .text
                .contains("400 days behind")
        );
        assert_eq!(find(&host, i64::MIN).verdict, Verdict::Poor);
    }
}
