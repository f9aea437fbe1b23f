//! One manifest, `configs/apps/everything.yaml`, and what must be so wherever
//! it runs: the same list on this machine and on an emulated board. Facts are
//! seen from inside the containers, by the hub, and by everybody outside.

use crate::{Hub, Scratch, until};
use serde_json::Value;
use skerry_hub::demo::image;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The image that the manifest names: the one thing that is put in its place.
const IMAGE: &str = "busybox:1.36";
/// What is put there.
const TEST_IMAGE: &str = "test/everything:1";
/// Its port of the device.
pub const PORT: u16 = 8080;
/// Where the device reaches what is outside of it, as in QEMU's user network.
pub const OUTSIDE: &str = "10.0.2.2";
/// What its egress rules let through.
const OPEN_PORTS: std::ops::RangeInclusive<u16> = 20_000..=29_999;
/// Bits of linux/capability.h.
const NET_BIND_SERVICE: u64 = 1 << 10;
const DAC_OVERRIDE: u64 = 1 << 1;
const MIB: u64 = 1 << 20;
/// As the kernel calls the profile of a process.
const PROFILE: &str = "skerry-default (enforce)";
/// One answer over TCP.
const SHORT: Duration = Duration::from_secs(20);

/// Where the manifest runs.
pub trait Place {
    /// The hub that it is applied to.
    fn hub(&self) -> &Hub;
    /// The device's name.
    fn device(&self) -> &str;
    /// How long anything may take.
    fn patience(&self) -> Duration;
    /// Where everybody outside reaches [`PORT`] of the device.
    fn page(&self) -> Result<String, String>;
    /// Whether the kernel tells how long a container waits: cgroup v2 with PSI.
    fn has_pressure(&self) -> bool;
    /// Whether the file system of its data limits what is in a directory.
    fn has_quotas(&self) -> bool;
    /// Whether the kernel has our AppArmor profile.
    fn has_app_armor(&self) -> bool;
    /// Listens outside, at an address that the device reaches as [`OUTSIDE`].
    fn listen(&self, port: u16) -> std::io::Result<TcpListener>;
    /// A file of `web`'s cgroup: as cgroup v1 calls it, and as v2 does.
    fn cgroup(&self, controller: &str, v1: &str, v2: &str) -> String;
}

/// What came of it.
type Seen = Result<String, String>;

/// The manifest as it is applied.
pub fn manifest() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../configs/apps/everything.yaml");
    let text = fs::read_to_string(path).expect("the sample is there");
    assert!(text.contains(IMAGE));
    text.replace(IMAGE, TEST_IMAGE)
}

/// Imports the manifest's image: a static busybox that is called `sh`, which
/// finds its applets in itself.
pub fn import_image(hub: &Hub, scratch: &Scratch, busybox: &[u8], architecture: &str) {
    let archive = scratch.path().join("everything.tar");
    let file = image::File {
        path: "bin/sh",
        mode: 0o755,
        bytes: busybox,
    };
    let out = File::create(&archive).expect("a file");
    image::write_oci_archive_for(out, TEST_IMAGE, architecture, &[file], &["/bin/sh"])
        .expect("an image");
    hub.skerry(&["image", "import", &archive.display().to_string()]);
}

/// The first line of `GET /` and what comes after it.
pub fn get(to: SocketAddr) -> Result<String, String> {
    let asked = (|| {
        let mut stream = TcpStream::connect_timeout(&to, SHORT)?;
        stream.set_read_timeout(Some(SHORT))?;
        stream.write_all(b"GET / HTTP/1.0\r\nHost: sales\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })();
    asked.map_err(|e: std::io::Error| e.to_string())
}

/// Two listeners outside: one that the egress rules allow, one that they do not.
struct Office {
    open: u16,
    closed: u16,
    /// Who came to the closed one.
    came: Arc<AtomicU32>,
}

impl Office {
    fn new(place: &impl Place) -> Self {
        let open = OPEN_PORTS.skip((std::process::id() % 5000) as usize);
        let open = open.into_iter().find_map(|port| place.listen(port).ok());
        let (open, came) = serve(open.expect("a port of the range is free"));
        drop(came);
        let (closed, came) = serve(place.listen(0).expect("a port"));
        assert!(!OPEN_PORTS.contains(&closed), "{closed} is not refused");
        Self { open, closed, came }
    }
}

/// Answers whoever comes, and counts them.
fn serve(listener: TcpListener) -> (u16, Arc<AtomicU32>) {
    let port = listener.local_addr().expect("an address").port();
    let came = Arc::new(AtomicU32::new(0));
    let count = came.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::Relaxed);
            // The request goes to its empty line.
            let request = BufReader::new(&stream).lines().map_while(Result::ok);
            let _ = request.take_while(|line| !line.is_empty()).count();
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhead office\n");
        }
    });
    (port, came)
}

/// Applies the manifest at this place and looks at everything.
pub fn runs_everything(place: &impl Place, scratch: &Scratch) {
    let began = Instant::now();
    let device = place.device();
    let hub = place.hub();
    let office = Office::new(place);
    let file = scratch.path().join("everything.yaml");
    let path = file.display().to_string();
    fs::write(&file, manifest()).expect("written");
    let wait = format!("{}s", place.patience().as_secs());
    let apply = |what: &str| {
        let said = hub.try_skerry(&["apply", "--wait", "--timeout", &wait, "-f", &path]);
        said.unwrap_or_else(|e| {
            panic!(
                "{what}: {e}\n{}\n{:#}",
                hub.skerry(&["events"]),
                hub.device(device)
            )
        })
    };
    println!("{}", apply("apply"));
    println!("same: all of it runs after {:.1?}", began.elapsed());
    let mut list = List {
        failed: Vec::new(),
        device: device.into(),
    };
    let again = hub.run(&["diff", "-f", &path]);
    list.is(
        "the manifest is what the hub has",
        "",
        &text_of(&again.stdout),
    );
    facts(place, &office, &mut list);

    // A changed config is followed, and restarts nothing.
    let of_web = |script: &str| inside(place, "sales", "web", script);
    let changed = manifest().replace("currency = EUR", "currency = SEK");
    fs::write(&file, &changed).expect("written");
    apply("a changed config");
    let follows = until(place.patience(), || {
        of_web("cat /etc/shop/shop.conf")
            .is_ok_and(|text| text.contains("SEK"))
            .then_some(())
    });
    list.holds(
        "a config is followed",
        follows.is_some(),
        &of_web("cat /etc/shop/shop.conf"),
    );
    list.is("nothing was restarted", "0", &restarts(place, "sales"));

    // Another revision takes over when it is ready.
    fs::write(&file, changed.replace("echo web runs", "echo web is new")).expect("written");
    apply("another revision");
    let log = || logs(place, "sales", "web").unwrap_or_default();
    let new = until(place.patience(), || {
        log().contains("web is new").then_some(())
    });
    list.holds("another revision takes over", new.is_some(), &Ok(log()));
    let page = until(place.patience(), || place.page().ok());
    list.has(
        "its page is there",
        "moin from sales",
        &page.ok_or("none".into()),
    );

    // Everything goes, in its order; what it kept stays.
    hub.skerry(&["delete", "-f", &path]);
    let gone = until(place.patience(), || {
        let left = hub.device(device);
        left["apps"]
            .as_array()
            .is_some_and(Vec::is_empty)
            .then_some(())
    });
    list.holds("all of it goes", gone.is_some(), &Ok(String::new()));
    let kept = scratch.path().join("order");
    let from = format!("{device}:sales-data/order");
    let copied = hub.try_skerry(&["volume", "cp", &from, &kept.display().to_string()]);
    let order = copied.map(|_| fs::read_to_string(&kept).unwrap_or_default());
    let ends = order
        .as_ref()
        .is_ok_and(|o| o.ends_with("web stops\ndice stops\n"));
    list.holds(
        "preStop in the order of the pod, seen in its volume",
        ends,
        &order,
    );
    let closed = until(place.patience(), || place.page().err());
    list.holds("the port is closed", closed.is_some(), &Ok(String::new()));
    // Something in it was refused memory, and it lived on until it was stopped.
    let events = hub.skerry(&["events"]);
    let wrongly = events.lines().find(|line| line.contains("OOMKilled"));
    list.is(
        "what was stopped is not told as out of memory",
        "",
        wrongly.unwrap_or_default(),
    );
    println!("same: all was seen after {:.1?}", began.elapsed());
    let List { failed, .. } = list;
    assert!(failed.is_empty(), "{failed:#?}\n{events}");
}

/// What was looked at.
struct List {
    device: String,
    failed: Vec<String>,
}

impl List {
    fn holds(&mut self, fact: &str, holds: bool, seen: &Seen) {
        let mark = if holds { "so" } else { "NOT SO" };
        let (Ok(text) | Err(text)) = seen;
        let shown: String = text.trim().chars().take(200).collect();
        let line = format!(
            "{}: {fact}: {mark} ({})",
            self.device,
            shown.replace('\n', " | ")
        );
        println!("same: {line}");
        if !holds {
            self.failed.push(line);
        }
    }

    fn is(&mut self, fact: &str, wanted: &str, seen: &str) {
        let seen = seen.trim();
        self.holds(fact, seen == wanted, &Ok(seen.into()));
    }

    fn has(&mut self, fact: &str, part: &str, seen: &Seen) {
        let holds = seen.as_ref().is_ok_and(|text| text.contains(part));
        self.holds(fact, holds, seen);
    }
}

/// Runs a script in a container.
fn inside(place: &impl Place, app: &str, container: &str, script: &str) -> Seen {
    let target = format!("{}/{app}", place.device());
    let words = [
        "exec", &target, "-c", container, "--", "/bin/sh", "-c", script,
    ];
    place.hub().try_skerry(&words)
}

fn logs(place: &impl Place, app: &str, container: &str) -> Seen {
    let target = format!("{}/{app}", place.device());
    place.hub().try_skerry(&["logs", &target, "-c", container])
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn app(device: &Value, name: &str) -> Value {
    let mut apps = device["apps"].as_array().into_iter().flatten();
    apps.find(|a| a["name"] == name)
        .cloned()
        .unwrap_or_default()
}

/// How often the containers of an app were started again, together.
fn restarts(place: &impl Place, name: &str) -> String {
    let app = app(&place.hub().device(place.device()), name);
    let containers = app["containers"].as_array().cloned().unwrap_or_default();
    let counts = containers
        .iter()
        .map(|c| c["restarts"].as_u64().unwrap_or(0));
    counts.sum::<u64>().to_string()
}

/// What a script has said after `NAME=`, up to the next such line.
struct Answers(String);

impl Answers {
    fn of(place: &impl Place, app: &str, container: &str, script: &str) -> Self {
        match inside(place, app, container, script) {
            Ok(text) => Self(text),
            Err(text) => Self(format!("@error\n{text}\n")),
        }
    }

    fn get(&self, name: &str) -> String {
        let mut parts = self.0.split('@');
        let found = parts.find_map(|part| part.strip_prefix(name)?.strip_prefix('\n'));
        let found = found.map(|part| part.trim().to_string());
        found.unwrap_or_else(|| format!("no answer in {:?}", self.0))
    }
}

/// Everything that `web` can say of itself.
const OF_WEB: &str = r#"
say() { echo "@$1"; shift; "$@" 2>&1; }
say user id -u
say groups id -G
say status grep -E 'Cap(Bnd|Eff)|NoNewPrivs|Seccomp:' /proc/self/status
say userns unshare -U true
say profile cat /proc/self/attr/current
say kcore cat /proc/kcore
say root touch /made
say www touch /www/made
say config cat /etc/shop/shop.conf
say written touch /etc/shop/made
say key cat /etc/key/key
say mounts grep -E ' (/etc/key|/scratch|/data|/www|/) ' /proc/mounts
say env env
say host hostname
say hosts cat /etc/hosts
say resolv cat /etc/resolv.conf
say sysctl cat /proc/sys/net/ipv4/ip_unprivileged_port_start
say order cat /data/order
say clock cat /www/clock
say api ls -l /run/skerry
say fill dd if=/dev/zero of=/scratch/big bs=64k count=64
rm -f /scratch/big
say node mknod /scratch/sda b 8 0
say volume dd if=/dev/zero of=/data/big bs=64k count=160
rm -f /data/big
echo @end
"#;

fn facts(place: &impl Place, office: &Office, list: &mut List) {
    of_web(place, list);
    limits(place, list);
    devices_and_processes(place, list);
    networks(place, office, list);
    users(place, list);
    work(place, list);
}

fn of_web(place: &impl Place, list: &mut List) {
    let told = Answers::of(place, "sales", "web", OF_WEB);
    let part = |name: &str| Ok(told.get(name));
    list.is("runAsUser", "1000", &told.get("user"));
    list.is("its groups", "1000 2000 3000", &sorted(&told.get("groups")));
    let status = told.get("status");
    let word = |name: &str| {
        let of = |line: &str| Some(line.strip_prefix(name)?.trim().to_string());
        status.lines().find_map(of).unwrap_or_default()
    };
    list.is(
        "dropped and added capabilities",
        &mask(NET_BIND_SERVICE),
        &word("CapBnd:"),
    );
    list.is(
        "none of them in effect for a user",
        &mask(0),
        &word("CapEff:"),
    );
    list.is("no new privileges", "1", &word("NoNewPrivs:"));
    list.is("a seccomp filter", "2", &word("Seccomp:"));
    list.has("seccomp refuses a call", "not permitted", &part("userns"));
    confined(place, &told, list);
    list.has("a read-only root", "Read-only file system", &part("root"));
    list.has("a read-only volume", "Read-only file system", &part("www"));
    list.has("a config as a file", "currency = EUR", &part("config"));
    list.has(
        "a config is not written",
        "Read-only file system",
        &part("written"),
    );
    list.is("a secret as a file", "open-sesame", &told.get("key"));
    let mounts = told.get("mounts");
    let kind = |path: &str| {
        let line = mounts.lines().find(|l| l.split(' ').nth(1) == Some(path));
        let words: Vec<&str> = line.unwrap_or_default().split(' ').collect();
        words.get(2).copied().unwrap_or_default().to_string()
    };
    // Never swapped where the kernel has that (ramfs, tmpfs with noswap).
    let memory = ["tmpfs", "ramfs"].contains(&kind("/etc/key").as_str());
    list.holds("a secret in memory", memory, &Ok(kind("/etc/key")));
    list.is("an empty directory in memory", "tmpfs", &kind("/scratch"));
    list.has("its size limit", "No space left", &part("fill"));
    let volume = told.get("volume");
    let limited = volume.contains("quota exceeded") || volume.contains("No space left");
    // The operator is told where it cannot be, soon.
    let tells = || place.hub().skerry(&["events"]).contains("SizeNotLimited");
    let told_so = match place.has_quotas() {
        true => tells(),
        false => until(place.patience(), || tells().then_some(())).is_some(),
    };
    let what = match place.has_quotas() {
        true => "a volume's size limit",
        false => "a volume's size limit is no secret where it cannot be",
    };
    let holds = limited == place.has_quotas() && told_so != place.has_quotas();
    list.holds(what, holds, &Ok(volume));
    list.is("layers by overlayfs", "overlay", &kind("/"));
    list.has("a secret as a variable", "KEY=open-sesame", &part("env"));
    list.has("a config as variables", "CONF_GREETING=moin", &part("env"));
    list.has("its address as a variable", "ADDRESS=10.209.", &part("env"));
    list.is("its host name", "shop", &told.get("host"));
    list.has(
        "a further host name",
        "10.0.2.2 head-office",
        &part("hosts"),
    );
    list.has("name servers and options", "ndots:2", &part("resolv"));
    list.is("a sysctl of its own", "80", &told.get("sysctl"));
    list.is(
        "init container, sidecar, main, in this order",
        "setup\ndice starts\nweb starts",
        &told.get("order"),
    );
    let clock = told.get("clock");
    list.holds("a shared volume", clock.contains(':'), &Ok(clock));
    list.has("the device's API", "api.sock", &part("api"));
    list.has("no device nodes of its own", "not permitted", &part("node"));
    list.has("its log", "web runs", &logs(place, "sales", "web"));
}

/// What a mask makes an empty file, AppArmor refuses to open.
fn confined(place: &impl Place, told: &Answers, list: &mut List) {
    if !place.has_app_armor() {
        return;
    }
    list.is("the AppArmor profile", PROFILE, &told.get("profile"));
    let kcore = Ok(told.get("kcore"));
    list.has("AppArmor refuses a read", "Permission denied", &kcore);
}

fn sorted(words: &str) -> String {
    let mut words: Vec<&str> = words.split_whitespace().collect();
    words.sort_unstable();
    words.join(" ")
}

/// As the kernel writes a set of capabilities.
fn mask(bits: u64) -> String {
    format!("{bits:016x}")
}

/// Uses up what it has of each.
const HUNGRY: &str = r#"
say() { echo "@$1"; shift; "$@" 2>&1; }
say memory sh -c 'dd if=/dev/zero of=/dev/null bs=96M count=1 2>/dev/null; echo "ended with $?"'
say fork sh -c 'i=0; while [ $i -lt 40 ]; do sleep 12 >/dev/null 2>&1 & i=$((i+1)); done'
echo @end
"#;

fn limits(place: &impl Place, list: &mut List) {
    let memory = place.cgroup("memory", "memory.limit_in_bytes", "memory.max");
    list.is("its memory limit", &(48 * MIB).to_string(), &memory);
    let soft = place.cgroup("memory", "memory.soft_limit_in_bytes", "memory.low");
    list.is("the memory kept for it", &(16 * MIB).to_string(), &soft);
    let swap = place.cgroup("memory", "memory.memsw.limit_in_bytes", "memory.swap.max");
    list.holds("no swap", swap == "0" || swap == memory, &Ok(swap));
    let pids = place.cgroup("pids", "pids.max", "pids.max");
    list.is("its limit of processes", "16", &pids);
    let cpu = place.cgroup("cpu", "cpu.cfs_quota_us", "cpu.max");
    let quota = cpu.split(' ').next().unwrap_or_default().to_string();
    list.is("its share of a processor", "30000", &quota);
    let told = Answers::of(place, "sales", "web", HUNGRY);
    list.is(
        "memory above the limit is refused",
        "ended with 137",
        &told.get("memory"),
    );
    list.has(
        "processes above the limit are refused",
        "fork",
        &Ok(told.get("fork")),
    );
    // Those that were not refused are still there.
    let quiet = until(place.patience(), || {
        let left = inside(place, "sales", "dice", "ps | grep -c '[s]leep 12$'");
        left.is_err().then_some(())
    });
    list.holds("they end", quiet.is_some(), &Ok(String::new()));
    let mut stat = String::new();
    // On a busy machine it may take a while to get more than its share.
    let held = until(place.patience(), || {
        let spin = "timeout 2 sh -c 'while :; do :; done'";
        let _ = inside(place, "sales", "web", spin);
        stat = place.cgroup("cpu", "cpu.stat", "cpu.stat");
        let held = stat.lines().find_map(|l| l.strip_prefix("nr_throttled "))?;
        (held.trim() != "0").then_some(())
    });
    list.holds("time above the limit is refused", held.is_some(), &Ok(stat));
    pressure(place, list);
    list.is("it lives on", "0", &restarts(place, "sales"));
}

/// What `skerry top` says of a container that wants more time than it has.
fn pressure(place: &impl Place, list: &mut List) {
    let words = ["top", "apps", "-o", "wide"];
    let waits = || {
        let _ = inside(
            place,
            "sales",
            "web",
            "timeout 4 sh -c 'while :; do :; done'",
        );
        let table = place.hub().try_skerry(&words).ok()?;
        let of_web = |line: &&str| line.contains(" sales ") && line.contains(" web ");
        let row = table.lines().find(of_web)?;
        // The last three columns, from the right.
        let mut last = row.split_whitespace().rev();
        let (disk, memory, cpu) = (last.next()?, last.next()?, last.next()?);
        (cpu != "0.00%").then(|| format!("cpu {cpu}, memory {memory}, disk {disk}"))
    };
    let seen = until(place.patience(), waits).ok_or("no pressure is told".to_string());
    let none = seen.as_deref() == Ok("cpu -, memory -, disk -");
    let (what, holds) = match place.has_pressure() {
        true => ("pressure is told", seen.is_ok() && !none),
        false => ("where the kernel tells no pressure, none is told", none),
    };
    list.holds(what, holds, &seen);
}

fn devices_and_processes(place: &impl Place, list: &mut List) {
    let script = r#"
say() { echo "@$1"; shift; "$@" 2>&1; }
say status grep CapEff /proc/self/status
say node ls -l /dev/dice
say read sh -c 'head -c 4 /dev/dice | wc -c'
say write sh -c ': >/dev/dice'
say processes ps
echo @end
"#;
    let told = Answers::of(place, "sales", "dice", script);
    let part = |name: &str| Ok(told.get(name));
    list.has(
        "a root with few capabilities",
        &mask(DAC_OVERRIDE),
        &part("status"),
    );
    list.has("a device of the host", "10, 183", &part("node"));
    // A machine without such hardware has the node, and nothing behind it.
    let read = told.get("read");
    let opened = !read.contains("not permitted") && !read.contains("denied");
    list.holds("it is read", opened, &Ok(read));
    list.has("it is not written", "not permitted", &part("write"));
    list.has("processes of the pod", "httpd -f -p 80", &part("processes"));
}

fn networks(place: &impl Place, office: &Office, list: &mut List) {
    // A service leads to those that are ready.
    let ready = is_ready(place, "sales");
    list.holds("sales is ready again", ready, &Ok(String::new()));
    let page = until(place.patience(), || place.page().ok());
    let page = page.ok_or_else(|| format!("{:?}", place.page()));
    let greeting = format!("moin from sales on {}", place.device());
    list.has("a published port", &greeting, &page);
    let (open, closed) = (office.open, office.closed);
    let script = format!(
        "say() {{ echo \"@$1\"; shift; \"$@\" 2>&1; }}
         say open wget -q -O - http://head-office:{open}/
         say closed wget -q -O - http://{OUTSIDE}:{closed}/
         say service wget -q -O - http://counter:88/
         echo @end"
    );
    let told = Answers::of(place, "sales", "web", &script);
    list.has(
        "egress that is allowed",
        "head office",
        &Ok(told.get("open")),
    );
    let refused = told.get("closed");
    let came = office.came.load(Ordering::Relaxed);
    list.holds(
        "egress that is refused",
        came == 0 && refused.contains("wget:"),
        &Ok(refused),
    );
    list.has(
        "a service from its own pod",
        &greeting,
        &Ok(told.get("service")),
    );
    let script = r#"
say() { echo "@$1"; shift; "$@" 2>&1; }
say name wget -q -O - http://sales/
say long wget -q -O - http://sales.default.skerry.internal/
say service wget -q -O - http://counter:88/
echo @end
"#;
    let told = Answers::of(place, "till", "till", script);
    list.has("an app by its name", &greeting, &Ok(told.get("name")));
    list.has("an app by its whole name", &greeting, &Ok(told.get("long")));
    list.has("an app by its service", &greeting, &Ok(told.get("service")));
}

fn users(place: &impl Place, list: &mut List) {
    let script = r#"
say() { echo "@$1"; shift; "$@" 2>&1; }
say user id -u
say map cat /proc/self/uid_map
say owner stat -c '%u %g' /data/till
say profile cat /proc/self/attr/current
say host touch /proc/sys/kernel/hostname
echo @end
"#;
    let told = Answers::of(place, "till", "till", script);
    list.is("root inside", "0", &told.get("user"));
    let map = told.get("map");
    let words: Vec<u64> = map
        .split_whitespace()
        .filter_map(|w| w.parse().ok())
        .collect();
    let own = matches!(words[..], [0, first, 65_536] if first >= 524_288);
    list.holds("nobody outside", own, &Ok(map));
    list.is("its volume is its own", "0 0", &told.get("owner"));
    if place.has_app_armor() {
        list.is("its AppArmor profile", PROFILE, &told.get("profile"));
    }
    list.is("probed from the host", "0", &restarts(place, "till"));
}

fn work(place: &impl Place, list: &mut List) {
    let job = app(&place.hub().device(place.device()), "stocktake")["job"].clone();
    list.is(
        "the job is complete",
        "\"Complete\"",
        &job["outcome"].to_string(),
    );
    list.is("as often as wanted", "2", &job["succeeded"].to_string());
    let log = logs(place, "stocktake", "count");
    let counted = log.as_ref().is_ok_and(|l| {
        l.contains("moin from sales") && l.lines().filter(|l| l.contains("counted")).count() == 2
    });
    list.holds("each has done its work", counted, &log);
    let printed = until(place.patience(), || {
        let log = logs(place, "receipts", "print").ok()?;
        log.contains("receipts of").then_some(log)
    });
    let printed = printed.ok_or_else(|| place.hub().skerry(&["describe", "cronjob", "receipts"]));
    list.has("the cron job's minute", "receipts of", &printed);
    for name in ["sales", "till"] {
        list.holds(
            &format!("{name} is ready"),
            is_ready(place, name),
            &Ok(String::new()),
        );
    }
}

/// Whether an app is ready, also once it has recovered from all that it was
/// made to do.
fn is_ready(place: &impl Place, name: &str) -> bool {
    let ready = until(place.patience(), || {
        let containers = app(&place.hub().device(place.device()), name)["containers"].clone();
        let all = containers.as_array().cloned().unwrap_or_default();
        let ready = !all.is_empty() && all.iter().all(|c| c["ready"] == true);
        ready.then_some(())
    });
    ready.is_some()
}
