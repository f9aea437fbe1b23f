//! What an agent at rest does not do. In a process of its own: threads of other
//! tests would be counted.

use std::fs;
use std::time::{Duration, Instant};

/// Threads for blocking calls wait half a second for the next one, and end.
const PATIENCE: Duration = Duration::from_secs(60);

fn blocking_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").expect("our threads");
    let names = tasks.flatten().map(|task| task.path().join("comm"));
    let names = names.filter_map(|path| fs::read_to_string(path).ok());
    names.filter(|name| name.starts_with("blocking-")).count()
}

#[test]
fn threads_for_blocking_calls_end_when_there_are_none() {
    smol::block_on(async {
        assert_eq!(smol::unblock(blocking_threads).await, 1);
        let begin = Instant::now();
        while blocking_threads() > 0 {
            assert!(
                begin.elapsed() < PATIENCE,
                "a thread that has nothing to do stays, and wakes the processor twice a second: \
                 'blocking' 1.7.0 does so (cargo update -p blocking --precise 1.6.2)"
            );
            smol::Timer::after(Duration::from_millis(50)).await;
        }
    });
}
