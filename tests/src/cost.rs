//! What processes cost, as the kernel counts it, and rows of a table of that.
//! What cannot be read counts as nothing: processes come and go.

use crate::Agent;
use std::fs;

/// Prints the head of the table.
pub fn head() {
    println!(
        "{:<56} {:>9} {:>9} {:>9} {:>9}  unit",
        "WHAT", "MIN", "MEDIAN", "P99", "MAX"
    );
}

/// Prints one line of the table: a single value, or the spread of many.
pub fn row(what: &str, values: &[f64], unit: &str) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |part| percentile(&sorted, part);
    match sorted.len() {
        0 => println!("{what:<56} nothing measured"),
        1 => {
            // Shares of a percent, too.
            let digits = if at(0.5) < 1.0 { 4 } else { 1 };
            println!(
                "{what:<56} {:>9} {:>9.digits$}  {:>19}{unit}",
                "",
                at(0.5),
                ""
            );
        }
        _ => println!(
            "{what:<56} {:>9.1} {:>9.1} {:>9.1} {:>9.1}  {unit}",
            at(0.0),
            at(0.5),
            at(0.99),
            at(1.0)
        ),
    }
}

/// The value below which this part of them lies.
fn percentile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((last as f64 * part).round() as usize)
        .copied()
        .unwrap_or(0.0)
}

/// The middle one.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    percentile(&sorted, 0.5)
}

/// Proportional set size, in KiB (proc_pid_smaps_rollup).
pub fn pss(pid: u32) -> f64 {
    rollup(pid, "Pss:")
}

/// Memory that is its own and no file's, in KiB.
pub fn anonymous(pid: u32) -> f64 {
    rollup(pid, "Anonymous:")
}

fn rollup(pid: u32, field: &str) -> f64 {
    field_of(&format!("/proc/{pid}/smaps_rollup"), field)
}

/// The number after a name at the beginning of a line.
fn field_of(path: &str, name: &str) -> f64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|n| n.parse().ok()).unwrap_or(0.0)
}

/// A field of proc_pid_stat, numbered as there, in milliseconds: a tick is
/// 10 ms.
fn ticks(pid: u32, fields: [usize; 2]) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // What follows the name, which may hold blanks, begins with field 3.
    let after_name = text.rsplit(')').next().unwrap_or_default();
    let words: Vec<&str> = after_name.split_whitespace().collect();
    let field = |number: usize| {
        words
            .get(number - 3)
            .and_then(|word| word.parse::<u32>().ok())
    };
    let ticks: f64 = fields.into_iter().filter_map(field).sum::<u32>().into();
    ticks * 10.0
}

/// User and system time so far, in milliseconds, to 10 ms.
pub fn cpu_millis(pid: u32) -> f64 {
    ticks(pid, [14, 15])
}

/// The same of all its children that have ended, and theirs.
pub fn children_millis(pid: u32) -> f64 {
    ticks(pid, [16, 17])
}

/// Time on a processor so far of all its threads, in milliseconds, as the
/// scheduler counts it: to the nanosecond (sched-stats, "schedstat").
pub fn scheduled_millis(pid: u32) -> f64 {
    let of_thread = |dir: &str| field_of(&format!("{dir}/schedstat"), "") / 1e6;
    threads_of(pid).iter().map(|dir| of_thread(dir)).sum()
}

/// How often its threads went to sleep by themselves so far, and so were woken.
pub fn wakeups(pid: u32) -> f64 {
    let of_thread = |dir: &str| field_of(&format!("{dir}/status"), "voluntary_ctxt_switches:");
    threads_of(pid).iter().map(|dir| of_thread(dir)).sum()
}

/// How many threads it has.
pub fn threads(pid: u32) -> f64 {
    threads_of(pid).len() as f64
}

fn threads_of(pid: u32) -> Vec<String> {
    entries(&format!("/proc/{pid}/task"))
}

/// How many files it has open.
pub fn descriptors(pid: u32) -> f64 {
    entries(&format!("/proc/{pid}/fd")).len() as f64
}

fn entries(dir: &str) -> Vec<String> {
    let all = fs::read_dir(dir).into_iter().flatten().flatten();
    all.map(|one| one.path().display().to_string()).collect()
}

/// Bytes that it caused to be written to disks.
pub fn bytes_written(pid: u32) -> f64 {
    field_of(&format!("/proc/{pid}/io"), "write_bytes: ")
}

/// Everything that runs on the device for us: agent and keeper, not the apps.
pub fn ours(agent: &Agent) -> Vec<u32> {
    let apps = agent.container_processes();
    let rest = agent
        .processes()
        .into_iter()
        .filter(|pid| !apps.contains(pid));
    rest.map(|pid| pid as u32).chain([agent.pid()]).collect()
}
