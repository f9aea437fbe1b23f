//! A machine of its own for one test: directories, a cgroup, an image made
//! from busybox, and a runtime in it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use skerry_agent::runtime::{
    ContainerId, ContainerSpec, Exit, ExitStatus, LogItem, LogPolicy, LogStart, Network, Resources,
    Runtime, RuntimeConfig, RuntimeEvent, Security, Sharing,
};

/// The agent's binary.
pub const EXE: &str = env!("CARGO_BIN_EXE_skerry-agent");
/// Where Debian's busybox-static is.
const BUSYBOX: &str = "/bin/busybox";
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);
/// The same on an emulated machine, whose host may be busy too.
const EMULATED_PATIENCE: Duration = Duration::from_secs(1800);

/// Whether this machine is an emulated one, where each container takes a
/// second: SKERRY_EMULATED=1 says so.
pub fn is_emulated() -> bool {
    std::env::var_os("SKERRY_EMULATED").is_some()
}

/// Whether this machine can run containers. If not, the test fails, unless
/// SKERRY_TESTS_MAY_SKIP=1 says that it may be skipped.
pub fn machine_is_fit() -> bool {
    let fit = nix::unistd::geteuid().is_root() && Path::new(BUSYBOX).exists();
    if !fit {
        let text = "needs root and busybox-static";
        assert_eq!(
            std::env::var("SKERRY_TESTS_MAY_SKIP").as_deref(),
            Ok("1"),
            "{text}"
        );
        eprintln!("SKIPPED: {text}");
    }
    fit
}

/// Whether what a test is about can be had here. The emulated machine has all
/// of it: there, the test fails instead.
pub fn applies(there: bool, what: &str) -> bool {
    if !there {
        assert!(!is_emulated(), "the emulated machine has no {what}");
        eprintln!("NOT APPLICABLE: needs {what}, as agent/tests/cgroup-v2/run has it");
    }
    there
}

/// Runs a test on an executor of its own, with a bound on its time.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let patience = match is_emulated() {
        true => EMULATED_PATIENCE,
        false => PATIENCE,
    };
    smol::block_on(smol::future::or(test, async {
        smol::Timer::after(patience).await;
        panic!("the test takes longer than {} s", patience.as_secs());
    }))
}

/// One machine. Dropping it kills what is left and removes it.
pub struct Machine {
    dir: tempfile::TempDir,
    pub cgroup_parent: String,
}

impl Machine {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::Builder::new()
            .prefix("skerry-runtime-")
            .tempdir()
            .expect("a directory");
        Self {
            dir,
            cgroup_parent: format!("skerry-test-{}-{number}", std::process::id()),
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn config(&self) -> RuntimeConfig {
        RuntimeConfig {
            run_dir: self.path().join("run"),
            data_dir: self.path().join("data"),
            cgroup_parent: self.cgroup_parent.clone(),
            exe: EXE.into(),
            apps_memory: None,
        }
    }

    pub async fn connect(&self) -> Runtime {
        Runtime::connect(self.config()).await.expect("connected")
    }

    /// Every cgroup directory of this machine.
    pub fn cgroups(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut look = vec![PathBuf::from("/sys/fs/cgroup")];
        for depth in 0..2 {
            for dir in std::mem::take(&mut look) {
                for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                    let path = entry.path();
                    if path.is_dir()
                        && path
                            .file_name()
                            .is_some_and(|name| *name == *self.cgroup_parent)
                    {
                        collect_dirs(&path, &mut found);
                    } else if depth == 0 && path.is_dir() {
                        look.push(path);
                    }
                }
            }
        }
        found
    }

    /// What of this machine stands in the host's mount table. What others mount
    /// meanwhile, other tests in another directory too, is not looked at.
    pub fn mounts(&self) -> BTreeSet<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").expect("read");
        let mark = self.path().display().to_string();
        table
            .lines()
            // One test's volumes are on a ramfs, which it mounts itself.
            .filter(|line| line.contains(&mark) && !line.contains(" - ramfs "))
            .map(str::to_owned)
            .collect()
    }

    /// Every file of this machine, relative to its directory.
    pub fn files(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        collect_files(self.path(), self.path(), &mut found);
        found
    }
}

impl Drop for Machine {
    #[expect(
        clippy::disallowed_methods,
        reason = "the runtime under test, which would wait properly, has failed"
    )]
    fn drop(&mut self) {
        // A test that failed leaves a keeper and containers: end exactly
        // those, by their cgroups.
        for _ in 0..100 {
            let cgroups = self.cgroups();
            let mut alive = false;
            for dir in cgroups.iter().rev() {
                let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
                for pid in procs
                    .lines()
                    .filter_map(|line| line.parse().ok())
                    .filter(|pid| *pid > 1)
                {
                    alive = true;
                    let _ = nix::sys::signal::kill(
                        nix::unistd::Pid::from_raw(pid),
                        nix::sys::signal::Signal::SIGKILL,
                    );
                }
                let _ = fs::remove_dir(dir);
            }
            if !alive && self.cgroups().is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn collect_dirs(dir: &Path, found: &mut BTreeSet<PathBuf>) {
    found.insert(dir.to_owned());
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            collect_dirs(&entry.path(), found);
        }
    }
}

fn collect_files(base: &Path, dir: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        found.insert(path.strip_prefix(base).expect("below").to_owned());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_files(base, &path, found);
        }
    }
}

/// Copies a program, by another program: a child that another test starts
/// meanwhile has all open that we have, for a moment, and a file that somebody
/// has open to write to cannot be executed ("Text file busy").
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let copied = std::process::Command::new("cp")
        .args([from.as_ref(), to.as_ref()])
        .status();
    assert!(copied.is_ok_and(|status| status.success()), "cp copies");
}

/// An image layer with busybox and the usual files. Made once; the number is
/// to be raised when its content changes.
pub fn layer() -> PathBuf {
    static LAYER: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let ready = target.join("runtime-layer-3");
        if !ready.exists() {
            let dir = tempfile::Builder::new()
                .tempdir_in(target)
                .expect("a directory");
            fill_layer(dir.path());
            // If another test was faster, its one is as good.
            let _ = fs::rename(dir.path().join("root"), &ready);
        }
        ready
    };
    LAYER.get_or_init(make).clone()
}

fn fill_layer(base: &Path) {
    let root = base.join("root");
    for dir in ["bin", "etc", "tmp", "root", "home/web"] {
        fs::create_dir_all(root.join(dir)).expect("made");
    }
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("set");
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("set");
    copy_program(BUSYBOX, root.join("bin/busybox"));
    let applets = [
        "sh",
        "echo",
        "cat",
        "ls",
        "sleep",
        "true",
        "false",
        "id",
        "pwd",
        "env",
        "mount",
        "stty",
        "tty",
        "kill",
        "head",
        "tail",
        "dd",
        "unshare",
        "hostname",
        "mknod",
        "touch",
        "seq",
        "yes",
        "ps",
        "wc",
        "readlink",
        "sync",
        "chroot",
        "printf",
        "tr",
        "grep",
        "test",
        "date",
        "awk",
        "mkdir",
        "mkfifo",
        "chown",
        "chmod",
        "ln",
        "stat",
        "umount",
        "mountpoint",
        "mv",
        "rm",
        "cp",
        "nproc",
        "ulimit",
        "usleep",
    ];
    for applet in applets {
        symlink("busybox", root.join("bin").join(applet)).expect("linked");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/home/web:/bin/sh\n";
    fs::write(root.join("etc/passwd"), passwd).expect("written");
    fs::write(
        root.join("etc/group"),
        "root:x:0:\nweb:x:33:\naudio:x:29:web\n",
    )
    .expect("written");
}

/// A container that runs `script` in a shell.
pub fn shell(id: &str, script: &str) -> ContainerSpec {
    command(id, &["/bin/sh", "-c", script])
}

/// A container that runs a command.
pub fn command(id: &str, args: &[&str]) -> ContainerSpec {
    ContainerSpec {
        id: ContainerId::new(id).expect("a valid id"),
        log_name: format!("log-{id}"),
        layers: vec![layer()],
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: Vec::new(),
        cwd: String::new(),
        user: String::new(),
        groups: Vec::new(),
        mounts: Vec::new(),
        tmpfs: Vec::new(),
        devices: Vec::new(),
        hooks: Vec::new(),
        resources: Resources::default(),
        hostname: String::new(),
        read_only_root: false,
        security: Security::default(),
        sandbox: None,
        network: Network::Host,
        ipc: Sharing::Own,
        pid: Sharing::Own,
        log: LogPolicy::default(),
    }
}

/// Waits for the end of one container, forgetting the events of others.
pub async fn exit_of(runtime: &Runtime, id: &str) -> Exit {
    let events = runtime.events();
    loop {
        match events.next().await {
            RuntimeEvent::Exited { id: ended, exit } if ended.as_str() == id => return exit,
            RuntimeEvent::Exited { .. } => {}
            RuntimeEvent::KeeperLost => panic!("the keeper has gone"),
        }
    }
}

/// Runs a container to its end: how it ended, and its output by lines.
pub async fn output_of(runtime: &Runtime, spec: ContainerSpec) -> (ExitStatus, Vec<String>) {
    let (id, log, persist) = (spec.id.clone(), spec.log_name.clone(), spec.log.persist);
    runtime.create(spec).await.expect("created");
    let exit = exit_of(runtime, id.as_str()).await;
    let lines = log_lines(runtime, &log, persist);
    runtime.forget_exit(&id).await.expect("forgotten");
    runtime.remove(&id).await.expect("removed");
    (exit.status, lines)
}

/// All of a log, pieces put together.
pub fn log_lines(runtime: &Runtime, log: &str, persist: bool) -> Vec<String> {
    let mut reader = runtime
        .log_reader(log, persist, LogStart::Beginning)
        .expect("opened");
    let mut lines = vec![String::new()];
    while let Some(item) = reader.try_next().expect("read") {
        match item {
            LogItem::Entry(entry) => {
                let text = String::from_utf8(entry.text).expect("text");
                lines.last_mut().expect("never empty").push_str(&text);
                if !entry.partial {
                    lines.push(String::new());
                }
            }
            LogItem::Gap => panic!("a gap"),
        }
    }
    assert_eq!(lines.pop().as_deref(), Some(""), "the last line is full");
    lines
}

/// A container's id.
pub fn id(name: &str) -> ContainerId {
    ContainerId::new(name).expect("a valid id")
}

/// Waits until a line stands in a log.
pub async fn wait_for_line(runtime: &Runtime, log: &str, line: &str) {
    let mut reader = runtime
        .log_reader(log, false, LogStart::Beginning)
        .expect("opened");
    loop {
        if let LogItem::Entry(entry) = reader.next().await.expect("read")
            && entry.text == line.as_bytes()
        {
            return;
        }
    }
}
