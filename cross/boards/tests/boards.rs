//! The real image on emulated boards. `cross/boards/run` builds what they need
//! and runs them, one at a time.

use skerry_boards::bench::{PATIENCE, prepared, write_boot_file};
use skerry_boards::{Bench, Board, CardWrites, Model};
use skerry_tests::same::{self, PORT, Place};
use skerry_tests::{Hub, Scratch, until};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// An app that says in its log what its limits are and what comes of passing
/// them, then stays.
const LIMITED: &str = r#"apiVersion: skerry/v1
kind: App
metadata: { name: limited }
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: limited
          image: test/busybox:1
          command: ["/bin/busybox", "sh", "-c"]
          args:
            - |
              B=/bin/busybox
              for f in memory.max pids.max cpu.max; do $B echo "$f=$($B cat /sys/fs/cgroup/$f)"; done
              $B dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null; $B echo "memory: dd ended with $?"
              $B sh -c 'i=0; while [ $i -lt 20 ]; do /bin/busybox sleep 30 & i=$((i+1)); done' 2>&1 | $B grep -m1 fork
              $B timeout 5 $B sh -c 'while :; do :; done'
              $B grep nr_throttled /sys/fs/cgroup/cpu.stat
              $B echo "limits: done"
              exec $B sleep 1000000
          resources: { limits: { cpu: 100m, memory: 32Mi, pids: 12 } }
"#;

/// An app that only has to run.
const PLAIN: &str = r#"apiVersion: skerry/v1
kind: App
metadata: { name: plain }
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - { name: plain, image: test/app:1, args: [sleep] }
"#;

const RUNNING: &str = "first container running";

fn apply(bench: &Bench, manifest: &str) {
    let path = bench.scratch.path().join("apply.yaml");
    std::fs::write(&path, manifest).expect("written");
    bench
        .hub
        .skerry(&["apply", "-f", &path.display().to_string()]);
}

fn joined(bench: &Bench, board: &Board, name: &str) {
    let online = until(PATIENCE, || {
        (bench.hub.device(name)["state"] == "online").then_some(())
    });
    assert!(
        online.is_some(),
        "{name} does not join:\n{}\n{}",
        board.console().text(),
        bench.hub.log()
    );
}

/// The lines of the board's console that show how its start went.
fn phases(board: &Board) -> String {
    let text = board.console().text();
    let lines: Vec<&str> = text
        .lines()
        .filter(|l| l.contains("skerry: ") || l.contains("crng"))
        .collect();
    lines.join("\n")
}

fn said(board: &Board, what: &str) {
    board
        .wait_for(what, PATIENCE)
        .unwrap_or_else(|e| panic!("{e}"));
}

/// When a line of the kernel's log was said, in seconds since it started.
fn kernel_seconds(board: &Board, what: &str) -> f64 {
    let line = board.console().wait_for(what, PATIENCE).expect(what);
    let stamp = line.split(['[', ']']).nth(1).expect("a time stamp");
    stamp.trim().parse().expect("seconds")
}

/// How long the way from kernel to app took, and what of it was ours. Returns
/// the agent's share: from its start to the first container.
fn tell_start(board: &Board, model: &str) -> f64 {
    let at = |what| kernel_seconds(board, what);
    let (init, root, data) = (
        at("skerry: init starts"),
        at("skerry: root mounted"),
        at("skerry: data mounted"),
    );
    let (agent, store, app) = (
        at("skerry: agent starts"),
        at("skerry: store open"),
        at(RUNNING),
    );
    let share = app - agent;
    println!(
        "{model}: kernel to init {init:.2} s, root {:.2}, data {:.2}, agent starts {agent:.2}, store open +{:.2}, app running {app:.2} s after the kernel's start; the agent's share {:.0} ms",
        root - init,
        data - root,
        store - agent,
        share * 1000.0
    );
    share
}

fn limits_bite(bench: &Bench) {
    let log = until(PATIENCE, || {
        let text = bench.hub.try_skerry(&["logs", "limited"]).ok()?;
        text.contains("limits: done").then_some(text)
    });
    let log = log.unwrap_or_else(|| {
        panic!(
            "the limited app does not end its work: {:?}",
            bench.hub.try_skerry(&["logs", "limited"])
        )
    });
    println!("{log}");
    for wanted in [
        "memory.max=33554432",
        "pids.max=12",
        "cpu.max=10000 100000",
        "memory: dd ended with 137",
        "can't fork",
    ] {
        assert!(log.contains(wanted), "{wanted:?} is not in\n{log}");
    }
    let throttled = log
        .lines()
        .find_map(|l| l.rsplit_once("nr_throttled ")?.1.parse::<u64>().ok());
    assert!(
        throttled.is_some_and(|n| n > 0),
        "the processor was not limited:\n{log}"
    );
}

fn joins_and_limits_bite(model: Model) {
    let name = model.name();
    let bench = Bench::new(name);
    let board = bench.boot(model).expect("power");
    joined(&bench, &board, name);
    apply(&bench, LIMITED);
    said(&board, RUNNING);
    limits_bite(&bench);
    println!("{}", phases(&board));
}

#[test]
#[ignore = "virt_runs_the_same_manifest shows it, too"]
fn virt_joins_and_limits_bite() {
    joins_and_limits_bite(Model::Virt);
}

#[test]
fn raspi3b_joins_and_limits_bite() {
    joins_and_limits_bite(Model::Raspi3b);
}

/// An emulated board as a place for the manifest that uses everything, with
/// cgroup v2: `tests/tests/same.rs` looks at the same list where it runs.
struct OnBoard<'a> {
    bench: &'a Bench,
    page: SocketAddr,
}

impl Place for OnBoard<'_> {
    fn hub(&self) -> &Hub {
        &self.bench.hub
    }

    fn device(&self) -> &str {
        "everything"
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    fn page(&self) -> Result<String, String> {
        same::get(self.page)
    }

    fn has_pressure(&self) -> bool {
        true
    }

    fn has_quotas(&self) -> bool {
        // cross/image/build makes the data partition so.
        true
    }

    fn has_app_armor(&self) -> bool {
        // Debian's kernel has it, and cross/image/build the policy.
        true
    }

    fn listen(&self, port: u16) -> std::io::Result<TcpListener> {
        // What the guest reaches as 10.0.2.2.
        TcpListener::bind((Ipv4Addr::LOCALHOST, port))
    }

    fn cgroup(&self, _controller: &str, _v1: &str, v2: &str) -> String {
        // cgroup v2 is seen from inside, as the kernel has it.
        let file = format!("/sys/fs/cgroup/{v2}");
        let words = ["exec", "everything/sales", "-c", "web", "--", "/bin/sh"];
        let read = ["-c", &format!("cat {file}")];
        let said = self.bench.hub.try_skerry(&[&words[..], &read].concat());
        said.unwrap_or_else(|e| panic!("{file}: {e}")).trim().into()
    }
}

#[test]
fn virt_runs_the_same_manifest() {
    let bench = Bench::new("everything");
    let busybox = std::fs::read(prepared("SKERRY_BOARD_BUSYBOX")).expect("the program");
    same::import_image(&bench.hub, &bench.scratch, &busybox, "arm64");
    let page = skerry_tests::fleet::free_address();
    let mut setup = bench.setup(Model::Virt);
    setup.forward = Some((page.port(), PORT));
    let board = Board::boot(&setup).expect("power");
    joined(&bench, &board, "everything");
    let place = OnBoard {
        bench: &bench,
        page,
    };
    same::runs_everything(&place, &bench.scratch);
    println!("{}", phases(&board));
}

/// Numbers that look random and come again: SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// Takes the power away so often, at any moment of start and work, and looks
/// each time at the file system and whether the app comes back.
#[allow(clippy::disallowed_methods)] // the moment of a cut is a time
fn survives_power_cuts(model: Model, cuts: u32) {
    let seed = std::env::var("SKERRY_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(1);
    println!("SKERRY_SEED={seed}");
    let mut dice = Dice(seed);
    let name = format!("cuts-{}", model.name());
    let bench = Bench::new(&name);
    let mut board = bench.boot(model).expect("power");
    joined(&bench, &board, &name);
    apply(&bench, PLAIN);
    said(&board, RUNNING);
    let applied = until(PATIENCE, || {
        let device = bench.hub.device(&name);
        (device["generation_applied"].as_u64()? == device["generation_desired"].as_u64()?)
            .then_some(())
    });
    assert!(
        applied.is_some(),
        "the state is not applied: {:#}",
        bench.hub.device(&name)
    );
    for cut in 1..=cuts {
        board.power_on().expect("power");
        // One in four while the hub changes what the device keeps.
        let busy = dice.below(4) == 0;
        let wait = Duration::from_millis(dice.below(20_000));
        let deadline = Instant::now() + wait;
        if busy {
            apply(
                &bench,
                &PLAIN.replace(
                    "args: [sleep]",
                    &format!("args: [sleep], env: [{{name: \"N\", value: \"{cut}\"}}]"),
                ),
            );
        }
        std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
        board.cut_power();
        bench
            .check_data()
            .unwrap_or_else(|e| panic!("cut {cut} after {wait:?}: {e}"));
        board.power_on().expect("power");
        let share = {
            said(&board, RUNNING);
            tell_start(&board, model.name())
        };
        println!(
            "cut {cut} after {wait:?}: the app is back, file system clean ({:.0} ms)",
            share * 1000.0
        );
    }
    let console = board.console().text();
    assert!(!console.contains("LOST AT THE NEXT POWER CUT"), "{console}");
    joined(&bench, &board, &name);
    said(&board, "skerry: memory:");
    println!("{}", phases(&board));
}

#[test]
fn virt_survives_two_power_cuts() {
    survives_power_cuts(Model::Virt, 2);
}

#[test]
#[ignore = "long"]
fn virt_survives_twenty_power_cuts() {
    survives_power_cuts(Model::Virt, 20);
}

#[test]
#[ignore = "long"]
fn raspi3b_survives_twenty_power_cuts() {
    survives_power_cuts(Model::Raspi3b, 20);
}

/// DESIGN: from the agent's start to its first app running, in seconds.
const START_BUDGET_SECS: f64 = 0.5;
/// DESIGN: agent and keeper idle with three apps, TLS on, in KiB.
const PSS_BUDGET_KIB: u64 = 4096;
/// The same, of what only they have.
const ANONYMOUS_BUDGET_KIB: u64 = 1536;

/// Waits until a device has what the hub wants of it.
fn applied(bench: &Bench, name: &str) {
    let kept = until(PATIENCE, || {
        let device = bench.hub.device(name);
        (device["generation_applied"].as_u64()? == device["generation_desired"].as_u64()?)
            .then_some(())
    });
    assert!(kept.is_some(), "{:#}", bench.hub.device(name));
}

/// A board that has joined and runs one app; and the agent's share of a start
/// without a network, in time that is counted. That of a start in the host's time
/// is told only: it is what the host's load makes it.
fn counted_start(bench: &Bench, name: &str, model: Model) -> (Board, f64) {
    let mut board = bench.boot(model).expect("power");
    joined(bench, &board, name);
    apply(bench, PLAIN);
    said(&board, RUNNING);
    applied(bench, name);
    board.cut_power();
    let mut setup = bench.setup(model);
    setup.counted = true;
    setup.network = false;
    let mut counted = Board::boot(&setup).expect("power");
    said(&counted, RUNNING);
    let name = model.name();
    let share = tell_start(&counted, &format!("{name}, one app, counted"));
    println!("{}", phases(&counted));
    counted.cut_power();
    board.power_on().expect("power");
    said(&board, RUNNING);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    tell_start(
        &board,
        &format!("{name}, one app, in the host's time at load {load}"),
    );
    (board, share)
}

#[test]
#[ignore = "measures the agent that users get: cross/boards/run --budgets"]
fn raspi3b_starts_and_keeps_to_its_budgets() {
    let bench = Bench::new("pi-budgets");
    let (_board, share) = counted_start(&bench, "pi-budgets", Model::Raspi3b);
    assert!(share < START_BUDGET_SECS, "the start takes too long");
}

/// Measures the start of a board with one app, then what agent and keeper hold
/// when they are idle with three.
#[test]
#[ignore = "measures the agent that users get: cross/boards/run --budgets"]
fn virt_keeps_to_its_budgets() {
    let bench = Bench::new("budgets");
    let (mut board, share) = counted_start(&bench, "budgets", Model::Virt);
    joined(&bench, &board, "budgets");
    for number in 2..=3 {
        let name = format!("name: plain-{number} }}");
        apply(&bench, &PLAIN.replace("name: plain }", &name));
    }
    applied(&bench, "budgets");
    board.power_on().expect("power");
    let memory = board
        .wait_for("skerry: memory:", PATIENCE)
        .unwrap_or_else(|e| panic!("{e}"));
    println!("{memory}");
    // "memory: init 1 KiB (1 anonymous), run 1 KiB (1 anonymous), keeper ..."
    let of = |name: &str| {
        let words: Vec<&str> = memory.split_whitespace().collect();
        let at = words.iter().position(|word| *word == name).expect(name);
        let number = |at: usize| {
            words[at]
                .trim_start_matches('(')
                .parse::<u64>()
                .expect(name)
        };
        (number(at + 1), number(at + 3))
    };
    let (run, keeper) = (of("run"), of("keeper"));
    let (pss, anonymous) = (run.0 + keeper.0, run.1 + keeper.1);
    println!(
        "start {:.0} ms (budget {:.0}); agent and keeper {pss} KiB PSS (budget {PSS_BUDGET_KIB}), {anonymous} KiB anonymous (budget {ANONYMOUS_BUDGET_KIB})",
        share * 1000.0,
        START_BUDGET_SECS * 1000.0
    );
    assert!(share < START_BUDGET_SECS, "the start takes too long");
    assert!(pss <= PSS_BUDGET_KIB, "too much memory");
    assert!(
        anonymous <= ANONYMOUS_BUDGET_KIB,
        "too much memory of their own"
    );
}

#[test]
#[ignore = "long"]
fn runs_its_app_in_1970_without_a_network() {
    let bench = Bench::new("island");
    let mut board = bench.boot(Model::Virt).expect("power");
    joined(&bench, &board, "island");
    apply(&bench, PLAIN);
    said(&board, RUNNING);
    // Until the device has said that it has it, it may not have kept it.
    let kept = until(PATIENCE, || {
        let device = bench.hub.device("island");
        (device["generation_applied"].as_u64()? == device["generation_desired"].as_u64()?)
            .then_some(())
    });
    assert!(kept.is_some(), "{:#}", bench.hub.device("island"));
    board.cut_power();
    let mut setup = bench.setup(Model::Virt);
    setup.network = false;
    setup.clock = Some("1970-01-01T00:00:00".into());
    let board = Board::boot(&setup).expect("power");
    said(&board, RUNNING);
    assert!(
        !board.console().text().contains("eth0:"),
        "there is a network"
    );
    tell_start(&board, "virt, 1970, no network");
}

#[test]
#[ignore = "long"]
fn a_data_partition_that_is_gone_is_said_loudly_and_does_not_stop_the_start() {
    let bench = Bench::new("worn");
    let (at, bytes) = skerry_boards::firmware::partition(&bench.card, 4).expect("there");
    let file = std::fs::File::options()
        .write(true)
        .open(&bench.card)
        .expect("opens");
    let junk = vec![0xff; usize::try_from(bytes.min(4 << 20)).expect("small")];
    std::os::unix::fs::FileExt::write_all_at(&file, &junk, at).expect("written");
    drop(file);
    let board = bench.boot(Model::Virt).expect("power");
    said(&board, "ALL OF IT IS LOST AT THE NEXT POWER CUT");
    joined(&bench, &board, "worn");
    apply(&bench, PLAIN);
    said(&board, RUNNING);
}

/// A second app with a config of 900 KiB, which cannot be made much smaller.
fn with_a_large_config() -> String {
    let mut state = 1_u64;
    let letters = (0..900 << 10).map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + (state >> 33) as u8 % 26)
    });
    let text: String = letters.collect();
    let config = format!(
        "apiVersion: skerry/v1\nkind: Config\nmetadata: {{ name: large }}\ndata: {{ text: {text} }}\n"
    );
    let app = PLAIN.replace("name: plain", "name: second");
    format!(
        "{config}---\n{app}      volumes:\n        - {{ name: large, config: {{ name: large }} }}\n"
    )
}

#[test]
#[ignore = "long"]
fn a_card_that_takes_no_writes_still_runs_apps() {
    let mut bench = Bench::new("worn-card");
    let mut setup = bench.setup(Model::Virt);
    // The kernel brings nothing to its place that it has in the journal, unless
    // it is asked to, as when an image is unpacked.
    setup.more_cmdline +=
        " sysctl.vm.dirty_writeback_centisecs=0 sysctl.vm.dirty_expire_centisecs=8640000";
    let mut board = Board::boot(&setup).expect("power");
    joined(&bench, &board, "worn-card");
    apply(&bench, PLAIN);
    said(&board, RUNNING);
    let kept = |bench: &Bench| {
        until(PATIENCE, || {
            let device = bench.hub.device("worn-card");
            (device["generation_applied"].as_u64()? == device["generation_desired"].as_u64()?)
                .then_some(())
        })
    };
    assert!(
        kept(&bench).is_some(),
        "{:#}",
        bench.hub.device("worn-card")
    );
    // Here nothing is unpacked, and the agent's store becomes longer: how long,
    // only the journal knows.
    board.cut_power();
    board.power_on().expect("power");
    said(&board, RUNNING);
    apply(&bench, &with_a_large_config());
    assert!(
        kept(&bench).is_some(),
        "{:#}",
        bench.hub.device("worn-card")
    );
    // Nobody who could send anything again. The card stays as the next cut
    // leaves it.
    bench.hub.kill();
    for writes in [CardWrites::Locked, CardWrites::Failing] {
        board.cut_power();
        setup.card_writes = writes;
        board = Board::boot(&setup).expect("power");
        said(&board, "WHAT IS NEW IS LOST AT THE NEXT POWER CUT");
        let first = until(PATIENCE, || {
            let text = board.console().text();
            let mut words = [RUNNING, "no app to start"].into_iter();
            words.find(|words| text.contains(words))
        });
        println!("{writes:?}:\n{}", phases(&board));
        assert_eq!(first, Some(RUNNING), "{}", board.console().text());
        said(&board, "journal was replayed in memory");
    }
    bench.hub.start_again();
    let told = until(PATIENCE, || {
        let device = bench.hub.device("worn-card");
        let conditions = device["conditions"].as_array()?.clone();
        let mut all = conditions.iter();
        (device["state"] == "online" && all.any(|c| c["kind"] == "DataDirUnwritable")).then_some(())
    });
    assert!(told.is_some(), "{:#}", bench.hub.device("worn-card"));
    let events = bench.hub.skerry(&["events"]);
    assert!(!events.contains("StoreDamaged"), "{events}");
    // And what is new, in memory.
    apply(&bench, &PLAIN.replace("name: plain", "name: late"));
    assert!(
        kept(&bench).is_some(),
        "{:#}",
        bench.hub.device("worn-card")
    );
    println!("{}", phases(&board));
}

#[test]
#[ignore = "long"]
fn a_damaged_agent_yaml_does_not_stop_the_start() {
    let bench = Bench::new("typo");
    write_boot_file(&bench.card, "skerry/agent.yaml", b"nmae: [typo\n");
    let board = bench.boot(Model::Virt).expect("power");
    said(&board, "skerry/agent.yaml on the card is not used");
    said(&board, "skerry: ready");
}

/// A system whose kernel starts and finds no root.
fn broken_system(file: &Path, version: &str) {
    std::fs::copy(prepared("SKERRY_BOARD_SLOT"), file).expect("copied");
    let put = |name: &str, bytes: &[u8]| {
        let from = file.with_extension(name);
        std::fs::write(&from, bytes).expect("written");
        let copied = Command::new("mcopy")
            .args(["-o", "-i"])
            .arg(file)
            .arg(&from)
            .arg(format!("::{name}"))
            .status();
        assert!(copied.is_ok_and(|s| s.success()), "mcopy writes {name}");
    };
    put("root.squashfs", &vec![7; 1 << 20]);
    put("version.txt", format!("{version}\n").as_bytes());
}

/// Signs a system and gives it to the hub.
fn release_system(bench: &Bench, key: &Path, version: &str, system: &Path) {
    let bundle = bench.scratch.path().join(format!("{version}.bundle"));
    let signed = Command::new(skerry_tests::built("skerry"))
        .args([
            "release",
            "sign",
            "--kind",
            "os",
            "--version",
            version,
            "--key",
        ])
        .arg(key)
        .arg("-o")
        .arg(&bundle)
        .arg(format!("arm64={}", system.display()))
        .status();
    assert!(signed.is_ok_and(|s| s.success()), "the release is signed");
    bench
        .hub
        .skerry(&["release", "import", &bundle.display().to_string()]);
    bench.hub.skerry(&[
        "release",
        "rollout",
        version,
        "--kind",
        "os",
        "--confirm-within",
        "10m",
    ]);
}

fn the_hub_updates_the_system_and_a_broken_one_comes_back(model: Model) {
    let keys = Scratch::new("board-keys");
    let key = keys.path().join("release.key");
    let made = Command::new(skerry_tests::built("skerry"))
        .args(["release", "keygen", "-o"])
        .arg(&key)
        .output()
        .expect("skerry runs");
    let public = String::from_utf8_lossy(&made.stdout).trim().to_string();
    let bench = Bench::with_hub_options("updated", &["--release-key", &public]);
    let mut board = bench.boot(model).expect("power");
    joined(&bench, &board, "updated");
    apply(&bench, PLAIN);
    said(&board, RUNNING);

    release_system(&bench, &key, "9.0.0", &prepared("SKERRY_BOARD_SLOT"));
    let asked = board
        .wait_for_reset(PATIENCE)
        .unwrap_or_else(|e| panic!("{e}\n{:#}", bench.hub.device("updated")));
    assert!(asked, "the firmware is asked for the other slot, once");
    if model == Model::Raspi3b {
        // QEMU's mailbox answers; it does not act.
        let before = board.console_before().text();
        assert!(
            before.contains("the firmware takes the other slot, once"),
            "{before}"
        );
    }
    assert_eq!(board.partition(), 3);
    said(&board, "this system is on trial");
    said(&board, RUNNING);
    said(&board, "this system is confirmed");
    println!("{}", phases(&board));
    board.power_on().expect("power");
    assert_eq!(board.partition(), 3, "confirmed for good");
    said(&board, RUNNING);
    joined(&bench, &board, "updated");

    let broken = bench.scratch.path().join("broken.img");
    broken_system(&broken, "9.1.0");
    release_system(&bench, &key, "9.1.0", &broken);
    let asked = board
        .wait_for_reset(PATIENCE)
        .unwrap_or_else(|e| panic!("{e}\n{:#}", bench.hub.device("updated")));
    assert!(asked);
    assert_eq!(board.partition(), 2);
    said(&board, "skerry: cannot start");
    let asked = board
        .wait_for_reset(PATIENCE)
        .unwrap_or_else(|e| panic!("the broken system does not reset itself: {e}"));
    assert!(!asked);
    assert_eq!(board.partition(), 3, "back to what worked");
    said(&board, RUNNING);
    let told = until(PATIENCE, || {
        let device = bench.hub.device("updated");
        let updates = device["updates"].as_array()?.clone();
        updates.into_iter().find(|u| {
            u["target"].as_str().is_some_and(|t| t.ends_with("9.1.0"))
                && u["message"]
                    .as_str()
                    .is_some_and(|m| m.contains("not confirmed"))
        })
    });
    let told = told
        .unwrap_or_else(|| panic!("the hub is not told why: {:#}", bench.hub.device("updated")));
    println!("{told:#}");
}

#[test]
#[ignore = "long"]
fn virt_updates_its_system() {
    the_hub_updates_the_system_and_a_broken_one_comes_back(Model::Virt);
}

#[test]
#[ignore = "long"]
fn raspi3b_updates_its_system() {
    the_hub_updates_the_system_and_a_broken_one_comes_back(Model::Raspi3b);
}

/// An app that says a random word at its start: another start of it would say
/// another.
const WITNESS: &str = r#"apiVersion: skerry/v1
kind: App
metadata: { name: witness }
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: witness
          image: test/busybox:1
          command: ["/bin/busybox", "sh", "-c"]
          args: ["/bin/busybox cat /proc/sys/kernel/random/uuid; exec /bin/busybox sleep 1000000"]
"#;
/// What goes before the version in an agent's program.
const AGENT_MARK: &[u8] = b"\0skerry-agent version=";
/// Bytes of mark, version and zeros.
const AGENT_STAMP_BYTES: usize = 96;

/// The image's agent, but of another version.
fn agent_called(version: &str) -> Vec<u8> {
    let mut agent = std::fs::read(prepared("SKERRY_BOARD_AGENT")).expect("the agent");
    let at = agent
        .windows(AGENT_MARK.len())
        .position(|w| w == AGENT_MARK)
        .expect("the agent holds its version");
    let stamp = &mut agent[at + AGENT_MARK.len()..at + AGENT_STAMP_BYTES];
    stamp.fill(0);
    stamp[..version.len()].copy_from_slice(version.as_bytes());
    agent
}

/// A program that says it is an agent of this version, and as such ends at once
/// with code 3: the test app with a trailer.
fn agent_that_ends(version: &str) -> Vec<u8> {
    let mut bytes = std::fs::read(prepared("SKERRY_BOARD_APP")).expect("the test app");
    bytes.extend(AGENT_MARK);
    bytes.extend(format!("{version}\0exit\0").as_bytes());
    bytes
}

/// Signs an agent, gives it to the hub and waits for its rollout.
fn roll_out_agent(
    bench: &Bench,
    key: &Path,
    version: &str,
    agent: &[u8],
) -> Result<String, String> {
    let program = bench.scratch.path().join(format!("agent-{version}"));
    let bundle = bench.scratch.path().join(format!("{version}.bundle"));
    std::fs::write(&program, agent).expect("written");
    let signed = Command::new(skerry_tests::built("skerry"))
        .args(["release", "sign", "--version", version, "--key"])
        .arg(key)
        .arg("-o")
        .arg(&bundle)
        .arg(format!("arm64={}", program.display()))
        .status();
    assert!(signed.is_ok_and(|s| s.success()), "the release is signed");
    bench
        .hub
        .skerry(&["release", "import", &bundle.display().to_string()]);
    bench.hub.try_skerry(&[
        "release",
        "rollout",
        version,
        "--max-unavailable",
        "1",
        "--confirm-within",
        "5m",
        "--wait",
        "--timeout",
        "10m",
    ])
}

/// Waits until the device runs this agent and says so of its newest order.
fn agent_settles(bench: &Bench, name: &str, runs: &str, ordered: &str, state: &str) -> String {
    let order = until(PATIENCE, || {
        let device = bench.hub.device(name);
        let updates = device["updates"].as_array()?;
        let order = updates.iter().find(|u| u["subject"] == "agent")?;
        (device["state"] == "online"
            && device["facts"]["agent_version"] == runs
            && order["target"] == format!("agent {ordered}")
            && order["state"] == state)
            .then(|| order.clone())
    });
    let order = order.unwrap_or_else(|| {
        panic!(
            "agent {ordered} is not {state} with {runs} running: {:#}",
            bench.hub.device(name)
        )
    });
    println!("{order:#}");
    order["message"].as_str().unwrap_or_default().to_string()
}

/// How often the hub says that the witness was started again, and since when
/// it runs.
fn witness_life(bench: &Bench, name: &str) -> (u64, u64) {
    let life = until(PATIENCE, || {
        let device = bench.hub.device(name);
        let witness = &device["apps"][0]["containers"][0];
        Some((
            witness["restarts"].as_u64()?,
            witness["state"]["since_ms"].as_u64()?,
        ))
    });
    life.unwrap_or_else(|| panic!("the witness does not run: {:#}", bench.hub.device(name)))
}

/// An agent that takes a container over dates its start anew, by the kernel's
/// clock: a little earlier than who started it noticed. A restart is later.
fn same_life(before: (u64, u64), after: (u64, u64)) {
    assert_eq!(before.0, after.0, "restarts");
    assert!(
        after.1 < before.1 + 1000,
        "since {} ms, before {}",
        after.1,
        before.1
    );
}

/// What the witness said in all its starts that the device has logs of.
fn witnessed(bench: &Bench) -> String {
    let said = until(PATIENCE, || {
        let log = bench.hub.try_skerry(&["logs", "witness"]).ok()?;
        (!log.trim().is_empty()).then_some(log)
    });
    said.expect("the witness says its word")
}

#[test]
#[ignore = "long"]
fn virt_updates_its_agent_and_comes_back_from_a_broken_one() {
    the_hub_updates_the_agent_and_a_broken_one_comes_back(Model::Virt);
}

#[test]
#[ignore = "long"]
fn raspi3b_updates_its_agent_and_comes_back_from_a_broken_one() {
    the_hub_updates_the_agent_and_a_broken_one_comes_back(Model::Raspi3b);
}

fn the_hub_updates_the_agent_and_a_broken_one_comes_back(model: Model) {
    let keys = Scratch::new("board-keys");
    let key = keys.path().join("release.key");
    let made = Command::new(skerry_tests::built("skerry"))
        .args(["release", "keygen", "-o"])
        .arg(&key)
        .output()
        .expect("skerry runs");
    let public = String::from_utf8_lossy(&made.stdout).trim().to_string();
    let name = "agent-updated";
    let bench = Bench::with_hub_options(name, &["--release-key", &public]);
    let mut board = bench.boot(model).expect("power");
    joined(&bench, &board, name);
    apply(&bench, WITNESS);
    said(&board, RUNNING);
    let before = witnessed(&bench);
    let life = witness_life(&bench, name);
    assert_eq!(life.0, 0, "restarts");

    let good = roll_out_agent(&bench, &key, "9.0.0", &agent_called("9.0.0"));
    good.unwrap_or_else(|e| panic!("{e}\n{}", board.console().text()));
    agent_settles(&bench, name, "9.0.0", "9.0.0", "confirmed");
    assert_eq!(witnessed(&bench), before, "the app noticed the update");
    same_life(life, witness_life(&bench, name));

    board.cut_power();
    board.power_on().expect("power");
    said(&board, RUNNING);
    // Only the device can tell the new word: what the hub knows then is no
    // older than this start.
    let again = until(PATIENCE, || {
        let log = witnessed(&bench);
        (log != before).then_some(log)
    });
    let before = again.expect("the app starts anew after a power cut");
    // The cut counts as its end.
    let life = until(PATIENCE, || {
        Some(witness_life(&bench, name)).filter(|now| now.0 == life.0 + 1)
    });
    let life = life.unwrap_or_else(|| panic!("{:#}", bench.hub.device(name)));
    agent_settles(&bench, name, "9.0.0", "9.0.0", "confirmed");

    let error = roll_out_agent(&bench, &key, "9.1.0", &agent_that_ends("9.1.0"))
        .expect_err("it does not run");
    println!("{error}");
    let reason = agent_settles(&bench, name, "9.0.0", "9.1.0", "rolled_back");
    assert!(reason.contains("exit status: 3"), "{reason}");
    assert_eq!(witnessed(&bench), before, "the app noticed the way back");
    same_life(life, witness_life(&bench, name));
    println!("{life:?} {before}{}", phases(&board));
}

/// Writes another system into slot B, as the agent does, from outside.
fn put_into_slot_b(bench: &Bench, system: &Path) {
    let (at, bytes) = skerry_boards::firmware::partition(&bench.card, 3).expect("slot B");
    let system = std::fs::read(system).expect("the system");
    assert!(system.len() as u64 <= bytes);
    let file = std::fs::File::options()
        .write(true)
        .open(&bench.card)
        .expect("opens");
    std::os::unix::fs::FileExt::write_all_at(&file, &system, at).expect("written");
}

#[test]
#[ignore = "long"]
fn a_system_that_is_not_confirmed_gives_way_to_the_old_one() {
    let bench = Bench::new("trial");
    let mut board = bench.boot(Model::Virt).expect("power");
    said(&board, "skerry: ready");
    board.cut_power();
    put_into_slot_b(&bench, &prepared("SKERRY_BOARD_SLOT"));
    // As the firmware does after reboot "0 tryboot"; nobody told the agent of
    // this trial, so nobody confirms it.
    board.power_on_for_trial().expect("power");
    assert_eq!(board.partition(), 3);
    said(&board, "this system is on trial");
    said(&board, "skerry: ready");
    board.cut_power();
    board.power_on().expect("power");
    assert_eq!(board.partition(), 2);
    said(&board, "skerry: ready");
}

fn a_system_with_a_broken_root_gives_way_to_the_old_one(model: Model) {
    let bench = Bench::new("rootless");
    let mut board = bench.boot(model).expect("power");
    said(&board, "skerry: ready");
    board.cut_power();
    // Slot B has a kernel and an initramfs, and a root that is none.
    let system = bench.scratch.path().join("broken.img");
    broken_system(&system, "9.1.0");
    put_into_slot_b(&bench, &system);
    board.power_on_for_trial().expect("power");
    said(&board, "skerry: cannot start");
    let asked = board.wait_for_reset(PATIENCE).expect("resets itself");
    assert!(!asked);
    assert_eq!(board.partition(), 2);
    said(&board, "skerry: ready");
}

#[test]
#[ignore = "long"]
fn virt_comes_back_from_a_system_with_a_broken_root() {
    a_system_with_a_broken_root_gives_way_to_the_old_one(Model::Virt);
}

#[test]
#[ignore = "long"]
fn raspi3b_comes_back_from_a_system_with_a_broken_root() {
    a_system_with_a_broken_root_gives_way_to_the_old_one(Model::Raspi3b);
}
