//! Differences of two texts, line by line, in the unified form of diff(1).

/// Lines shown around a change.
const CONTEXT: usize = 3;
/// Lines compared in each text once equal heads and tails are cut off; longer
/// ones are shown as replaced whole. The table below then has 16 MiB.
const MAX_LINES: usize = 2000;

/// One line of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edit {
    Keep,
    Remove,
    Add,
}

/// The differences of `old` and `new`, with these names above; empty when they
/// are the same.
pub(super) fn diff(old: &str, new: &str, old_name: &str, new_name: &str) -> String {
    if old == new {
        return String::new();
    }
    let (a, b): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let edits = edits(&a, &b);
    let mut out = format!("--- {old_name}\n+++ {new_name}\n");
    let changed: Vec<usize> = edits
        .iter()
        .enumerate()
        .filter(|(_, edit)| **edit != Edit::Keep)
        .map(|(at, _)| at)
        .collect();
    let mut next = 0;
    while let Some(&first) = changed.get(next) {
        let mut last = first;
        while let Some(&following) = changed.get(next + 1) {
            if following > last + 2 * CONTEXT + 1 {
                break;
            }
            last = following;
            next += 1;
        }
        next += 1;
        let start = first.saturating_sub(CONTEXT);
        let end = (last + CONTEXT + 1).min(edits.len());
        hunk(&mut out, &edits, start..end, &a, &b);
    }
    out
}

fn hunk(out: &mut String, edits: &[Edit], range: std::ops::Range<usize>, a: &[&str], b: &[&str]) {
    let before = &edits[..range.start];
    let lines = |edits: &[Edit], other: Edit| edits.iter().filter(|e| **e != other).count();
    let (mut old_at, mut new_at) = (lines(before, Edit::Add), lines(before, Edit::Remove));
    let inside = &edits[range];
    let (old_count, new_count) = (lines(inside, Edit::Add), lines(inside, Edit::Remove));
    // An empty side is named by the line before it.
    let start = |at: usize, count: usize| if count == 0 { at } else { at + 1 };
    out.push_str(&format!(
        "@@ -{},{old_count} +{},{new_count} @@\n",
        start(old_at, old_count),
        start(new_at, new_count)
    ));
    for edit in inside {
        let (sign, line) = match edit {
            Edit::Keep => (' ', a[old_at]),
            Edit::Remove => ('-', a[old_at]),
            Edit::Add => ('+', b[new_at]),
        };
        out.push(sign);
        out.push_str(line);
        out.push('\n');
        old_at += usize::from(*edit != Edit::Add);
        new_at += usize::from(*edit != Edit::Remove);
    }
}

/// A shortest way from `a` to `b`, by the longest common subsequence.
fn edits(a: &[&str], b: &[&str]) -> Vec<Edit> {
    let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[head..], &b[head..]);
    let tail = a
        .iter()
        .rev()
        .zip(b.iter().rev())
        .take_while(|(x, y)| x == y)
        .count();
    let (a, b) = (&a[..a.len() - tail], &b[..b.len() - tail]);
    let mut out = vec![Edit::Keep; head];
    if a.len() > MAX_LINES || b.len() > MAX_LINES {
        out.extend(a.iter().map(|_| Edit::Remove));
        out.extend(b.iter().map(|_| Edit::Add));
    } else {
        // common[i][j]: how many lines a[i..] and b[j..] have in common.
        let width = b.len() + 1;
        let mut common = vec![0u32; (a.len() + 1) * width];
        for i in (0..a.len()).rev() {
            for j in (0..b.len()).rev() {
                common[i * width + j] = if a[i] == b[j] {
                    common[(i + 1) * width + j + 1] + 1
                } else {
                    common[(i + 1) * width + j].max(common[i * width + j + 1])
                };
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < a.len() && j < b.len() {
            if a[i] == b[j] {
                out.push(Edit::Keep);
                (i, j) = (i + 1, j + 1);
            } else if common[(i + 1) * width + j] >= common[i * width + j + 1] {
                out.push(Edit::Remove);
                i += 1;
            } else {
                out.push(Edit::Add);
                j += 1;
            }
        }
        out.extend(a[i..].iter().map(|_| Edit::Remove));
        out.extend(b[j..].iter().map(|_| Edit::Add));
    }
    out.extend(std::iter::repeat_n(Edit::Keep, tail));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn differences_read_as_diff_writes_them() {
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n";
        let new = "1\n2\nx\n4\n5\n6\n7\n8\n9\n10\n11\n12\n13\n";
        assert_eq!(
            diff(old, new, "a", "b"),
            "--- a\n+++ b\n@@ -1,6 +1,6 @@\n 1\n 2\n-3\n+x\n 4\n 5\n 6\n@@ -10,3 +10,4 @@\n 10\n 11\n 12\n+13\n"
        );
        assert_eq!(
            diff("", "a\n", "a", "b"),
            "--- a\n+++ b\n@@ -0,0 +1,1 @@\n+a\n"
        );
        assert_eq!(diff("a\n", "a\n", "a", "b"), "");
    }

    proptest! {
        #[test]
        fn a_difference_leads_from_one_text_to_the_other(
            a in prop::collection::vec("[a-c]", 0..30),
            b in prop::collection::vec("[a-c]", 0..30),
        ) {
            let a: Vec<&str> = a.iter().map(String::as_str).collect();
            let b: Vec<&str> = b.iter().map(String::as_str).collect();
            let (mut i, mut built) = (0, Vec::new());
            for edit in edits(&a, &b) {
                match edit {
                    Edit::Keep => { built.push(a[i]); i += 1; }
                    Edit::Remove => i += 1,
                    Edit::Add => built.push(b[built.len()]),
                }
            }
            prop_assert_eq!(i, a.len());
            prop_assert_eq!(built, b);
        }
    }
}
