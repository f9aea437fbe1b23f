//! Output, on its way to the files and back.

use std::fs;

use skerry_agent::runtime::{Earlier, ExitStatus, LogItem, LogPolicy, LogStart, Stream};

use crate::support::{
    Machine, exit_of, id, log_lines, machine_is_fit, output_of, run, shell, wait_for_line,
};

#[test]
fn a_follower_sees_every_line_once_over_rotations() {
    if !machine_is_fit() {
        return;
    }
    const LINES: u64 = 20_000;
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let mut spec = shell("a", &format!("seq 1 {LINES}"));
        spec.log = LogPolicy {
            persist: false,
            max_file_bytes: 64 * 1024,
            max_files: 100,
        };
        let mut reader = runtime
            .log_reader("log-a", false, LogStart::Tail(0))
            .expect("opened");
        runtime.create(spec).await.expect("created");
        let mut restarts = 0;
        let mut expected = 1;
        while expected <= LINES {
            let LogItem::Entry(entry) = reader.next().await.expect("read") else {
                panic!("a gap")
            };
            assert_eq!(
                String::from_utf8(entry.text).expect("text"),
                expected.to_string()
            );
            assert!(!entry.partial && entry.stream == Stream::Stdout);
            if expected % 777 == 0 {
                let start = LogStart::Cursor(reader.cursor());
                reader = runtime.log_reader("log-a", false, start).expect("opened");
                restarts += 1;
            }
            expected += 1;
        }
        assert!(restarts > 20);
        let files = fs::read_dir(machine.path().join("run/logs/log-a"))
            .expect("read")
            .count();
        assert!(files > 5, "{files} files");
        assert_eq!(exit_of(&runtime, "a").await.status, ExitStatus::Code(0));
        let tail = {
            let start = LogStart::Tail(3);
            let mut reader = runtime.log_reader("log-a", false, start).expect("opened");
            let mut lines = Vec::new();
            while let Some(LogItem::Entry(entry)) = reader.try_next().expect("read") {
                lines.push(String::from_utf8(entry.text).expect("text"));
            }
            lines
        };
        assert_eq!(tail, ["19998", "19999", "20000"]);
        runtime.remove(&id("a")).await.expect("removed");
        runtime.forget_exit(&id("a")).await.expect("forgotten");
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn a_flood_is_bounded_and_stops_nobody() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let mut spec = shell(
            "flood",
            "yes 'a line of some length to fill the files with'",
        );
        spec.log = LogPolicy {
            persist: false,
            max_file_bytes: 64 * 1024,
            max_files: 3,
        };
        runtime.create(spec).await.expect("created");
        // Others live and end meanwhile.
        for number in 0..5 {
            let (status, lines) =
                output_of(&runtime, shell(&format!("n{number}"), "echo hi")).await;
            assert_eq!(
                (status, lines),
                (ExitStatus::Code(0), vec!["hi".to_owned()])
            );
        }
        let dir = machine.path().join("run/logs/log-flood");
        let sizes = fs::read_dir(&dir).expect("read").flatten();
        let sizes: Vec<u64> = sizes
            .filter_map(|file| Some(file.metadata().ok()?.len()))
            .collect();
        assert!(
            sizes.len() <= 4 && sizes.iter().all(|size| *size <= 64 * 1024),
            "{sizes:?}"
        );
        runtime.remove(&id("flood")).await.expect("removed");
        runtime.forget_exit(&id("flood")).await.expect("forgotten");
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn long_and_unfinished_lines_and_odd_bytes() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let script =
            "head -c 50000 /dev/zero | tr '\\0' x; echo; printf '\\377\\0b\\n'; printf end";
        runtime.create(shell("a", script)).await.expect("created");
        exit_of(&runtime, "a").await;
        let mut reader = runtime
            .log_reader("log-a", false, LogStart::Beginning)
            .expect("opened");
        let mut lines = vec![Vec::new()];
        while let Some(item) = reader.try_next().expect("read") {
            let LogItem::Entry(entry) = item else {
                panic!("a gap")
            };
            assert!(entry.text.len() <= 16 * 1024);
            lines.last_mut().expect("never empty").extend(entry.text);
            if !entry.partial {
                lines.push(Vec::new());
            }
        }
        assert_eq!(lines[0], vec![b'x'; 50_000]);
        assert_eq!(
            lines[1..],
            [b"\xff\0b".to_vec(), b"end".to_vec(), Vec::new()]
        );
        runtime.remove(&id("a")).await.expect("removed");
        runtime.forget_exit(&id("a")).await.expect("forgotten");
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn a_log_goes_on_over_restarts_and_persists_when_asked() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        for number in 0..3 {
            let mut spec = shell(&format!("web-{number}"), &format!("echo life {number}"));
            spec.log_name = "web".into();
            spec.log.persist = true;
            let (status, _) = output_of(&runtime, spec).await;
            assert_eq!(status, ExitStatus::Code(0));
        }
        assert_eq!(
            log_lines(&runtime, "web", true),
            ["life 0", "life 1", "life 2"]
        );
        assert!(machine.path().join("data/logs/web").is_dir());
        assert!(!machine.path().join("run/logs/web").exists());
        runtime.remove_log("web").await.expect("removed");
        assert!(!machine.path().join("data/logs/web").exists());
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn what_each_start_wrote_is_told_apart_and_old_groups_go() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        for number in 0..3 {
            let mut spec = shell(&format!("web-{number}"), &format!("echo life {number}"));
            spec.log_name = "web".into();
            output_of(&runtime, spec).await;
        }
        let text = async |earlier| {
            let found = runtime.find_section("web", false, earlier);
            let section = found.await.expect("read").expect("it is kept");
            let start = LogStart::Cursor(section.first);
            let mut reader = runtime.log_reader("web", false, start).expect("opened");
            match reader.try_next().expect("read") {
                Some(LogItem::Entry(entry)) => String::from_utf8(entry.text).expect("text"),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(text(Earlier::Newest).await, "life 2");
        assert_eq!(text(Earlier::Than(id("web-2"))).await, "life 1");
        assert_eq!(text(Earlier::Than(id("web-1"))).await, "life 0");
        let none = runtime.find_section("web", false, Earlier::Than(id("web-0")));
        assert_eq!(none.await.expect("read"), None);

        // Logs of runs: of a group those stay that are wanted or being written.
        for (id, log, script) in [
            ("a", "cron.1.main", "echo 1"),
            ("b", "cron.2.main", "echo 2"),
            ("c", "cron.12.main", "echo 12"),
            ("d", "cronies.1.main", "echo other"),
        ] {
            let mut spec = shell(id, script);
            spec.log_name = log.into();
            spec.log.persist = id == "c";
            output_of(&runtime, spec).await;
        }
        let mut writing = shell("e", "echo on; sleep 1000");
        writing.log_name = "cron.3.main".into();
        runtime.create(writing).await.expect("created");
        wait_for_line(&runtime, "cron.3.main", "on").await;
        runtime.keep_logs("cron", vec![2]).await.expect("done");
        let there = |log: &str| {
            let dirs = ["run", "data"].map(|base| machine.path().join(base).join("logs").join(log));
            dirs.iter().any(|dir| dir.exists())
        };
        assert!(there("cron.2.main") && there("cron.3.main") && there("cronies.1.main"));
        assert!(!there("cron.1.main") && !there("cron.12.main") && there("web"));
        runtime.kill(&id("e")).await.expect("killed");
        exit_of(&runtime, "e").await;
        runtime.remove(&id("e")).await.expect("removed");
        runtime.forget_exit(&id("e")).await.expect("forgotten");
        runtime.keep_logs("cron", Vec::new()).await.expect("done");
        assert!(!there("cron.2.main") && !there("cron.3.main") && there("cronies.1.main"));
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn closing_its_output_ends_no_container() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let script = "echo before; exec >&- 2>&-; usleep 50000; exit 5";
        runtime.create(shell("a", script)).await.expect("created");
        wait_for_line(&runtime, "log-a", "before").await;
        assert_eq!(exit_of(&runtime, "a").await.status, ExitStatus::Code(5));
        runtime.remove(&id("a")).await.expect("removed");
        runtime.forget_exit(&id("a")).await.expect("forgotten");
        runtime.shutdown().await.expect("ended");
    });
}
