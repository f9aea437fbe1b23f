//! Figures, not tests: run with `--ignored --nocapture`, on a machine at rest.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Machine, command, exit_of, id, layer, machine_is_fit, run};

/// Lives of one kind that are timed.
const ROUNDS: usize = 50;

#[test]
#[ignore = "prints figures"]
fn keepers_memory_by_containers() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let keeper = runtime.keeper_pid();
        let print = |count: usize| {
            let rollup = fs::read_to_string(format!("/proc/{keeper}/smaps_rollup")).expect("read");
            let field = |name: &str| {
                let line = rollup
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .expect("there");
                line.trim()
                    .trim_end_matches(" kB")
                    .parse::<u64>()
                    .expect("a number")
            };
            println!(
                "{count:>3} containers: keeper PSS {} KiB, anonymous {} KiB, RSS {} KiB",
                field("Pss:"),
                field("Pss_Anon:"),
                field("Rss:")
            );
        };
        print(0);
        for number in 0..50 {
            let name = format!("c{number}");
            runtime
                .create(command(&name, &["sleep", "1000"]))
                .await
                .expect("created");
            if [1, 10, 50].contains(&(number + 1)) {
                print(number + 1);
            }
        }
        for number in 0..50 {
            let id = id(&format!("c{number}"));
            runtime.remove(&id).await.expect("removed");
            runtime.forget_exit(&id).await.expect("forgotten");
        }
        print(0);
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
#[ignore = "prints figures"]
fn time_of_a_life_beside_runc() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let bundle = machine.path().join("bundle");
    fs::create_dir(&bundle).expect("made");
    let made = Command::new("runc")
        .arg("spec")
        .current_dir(&bundle)
        .status()
        .expect("runc runs");
    assert!(made.success());
    let config = fs::read_to_string(bundle.join("config.json")).expect("read");
    let mut config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    config["process"]["args"] = serde_json::json!(["/bin/true"]);
    config["process"]["terminal"] = false.into();
    config["root"]["path"] = layer().to_string_lossy().into_owned().into();
    let namespaces = config["linux"]["namespaces"]
        .as_array_mut()
        .expect("a list");
    namespaces.retain(|one| one["type"] != "network");
    fs::write(bundle.join("config.json"), config.to_string()).expect("written");
    run(async {
        let runtime = machine.connect().await;
        let (mut created, mut lived, mut runc) = (Vec::new(), Vec::new(), Vec::new());
        let mut ended = Vec::new();
        for number in 0..ROUNDS {
            let name = format!("c{number}");
            let begin = Instant::now();
            runtime
                .create(command(&name, &["true"]))
                .await
                .expect("created");
            created.push(begin.elapsed());
            exit_of(&runtime, &name).await;
            ended.push(begin.elapsed());
            runtime.forget_exit(&id(&name)).await.expect("forgotten");
            runtime.remove(&id(&name)).await.expect("removed");
            lived.push(begin.elapsed());
            let begin = Instant::now();
            let status = Command::new("runc")
                .args(["--root"])
                .arg(machine.path().join("runc"))
                .args(["run", "-b"])
                .arg(&bundle)
                .arg(format!("{}-{number}", machine.cgroup_parent))
                .stdin(Stdio::null())
                .status();
            assert!(status.expect("runc runs").success());
            runc.push(begin.elapsed());
        }
        print("create to started", created);
        print("create to the end told", ended);
        print("create, start, exit, remove", lived);
        print("runc run", runc);
        runtime.shutdown().await.expect("ended");
    });
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "{what}: min {:.1} ms, median {:.1} ms, 95th {:.1} ms",
        millis(times[0]),
        millis(times[times.len() / 2]),
        millis(times[times.len() * 95 / 100])
    );
}
