//! Configs, secrets and volumes on a real device.

use serde_json::Value;
use skerry_tests::{Agent, Hub, PATIENCE, Scratch, need_root, until};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

const CONFIGS: &str = "apiVersion: skerry/v1
kind: Config
metadata: { name: settings }
data:
  a.conf: ONE
  b.conf: ONE
  LEVEL: info
---
apiVersion: v1
kind: Secret
metadata: { name: login }
stringData: { password: \"PASSWORD\" }
";

const APP: &str = "apiVersion: skerry/v1
kind: App
metadata: { name: web }
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: { }
      containers:
      - name: web
        image: test/app:1
        args: [sleep]
        envFrom:
        - { prefix: CONF_, configRef: { name: settings } }
        - secretRef: { name: nothing, optional: true }
        env:
        - { name: PASSWORD, valueFrom: { secretKeyRef: { name: login, key: password } } }
        - { name: GONE, valueFrom: { configMapKeyRef: { name: nothing, key: x, optional: true } } }
        - { name: DEVICE, valueFrom: { fieldRef: { fieldPath: spec.nodeName } } }
        - { name: WHOLE, value: \"$(DEVICE)/$(CONF_LEVEL)/$$(DEVICE)\" }
        volumeMounts:
        - { name: conf, mountPath: /etc/conf }
        - { name: login, mountPath: /etc/login }
        - { name: maybe, mountPath: /etc/maybe }
      volumes:
      - { name: conf, configMap: { name: settings } }
      - { name: login, secret: { secretName: login, defaultMode: 0400, items: [{ key: password, path: sub/pass }] } }
      - { name: maybe, config: { name: nothing, optional: true } }
";

struct Site {
    scratch: Scratch,
    hub: Hub,
    one: Agent,
}

fn site(name: &str) -> Site {
    need_root();
    let scratch = Scratch::new(name);
    let hub = Hub::start(&scratch);
    let one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    Site { scratch, hub, one }
}

impl Site {
    fn apply(&self, manifest: &str) {
        let path = self.scratch.path().join("some.yaml");
        fs::write(&path, manifest).expect("written");
        self.hub
            .skerry(&["apply", "-f", &path.display().to_string()]);
    }

    fn exec(&self, app: &str, words: &[&str]) -> Result<String, String> {
        let target = format!("one/{app}");
        let mut all = vec!["exec", target.as_str(), "--", "/bin/app"];
        all.extend(words);
        self.hub.try_skerry(&all)
    }

    fn read(&self, app: &str, file: &str) -> String {
        self.exec(app, &["read", file]).expect("read")
    }

    fn wait_running(&self, app: &str) -> Value {
        self.hub.wait_for_device("one", "the app runs", |d| {
            container(d, app).is_some_and(|c| c["state"]["kind"] == "running")
        })
    }
}

fn container<'a>(device: &'a Value, app: &str) -> Option<&'a Value> {
    let mut apps = device["apps"].as_array()?.iter();
    apps.find(|a| a["name"] == app)?["containers"]
        .as_array()?
        .first()
}

/// Files below a directory that hold a text, but for those of a store.
fn files_with(dir: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut ahead = vec![dir.to_path_buf()];
    while let Some(dir) = ahead.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let kind = entry.file_type().expect("a type");
            if kind.is_dir() {
                ahead.push(path);
            } else if kind.is_file()
                && path.extension().is_none_or(|e| e != "redb")
                && fs::read(&path).is_ok_and(|bytes| {
                    bytes
                        .windows(text.len())
                        .any(|part| part == text.as_bytes())
                })
            {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn configs_are_files_that_change_at_once_and_secrets_stay_in_memory() {
    let mut site = site("configs");
    let password = format!("s3cret-{}-{}", std::process::id(), "pq7x");
    let configs = |value: &str| CONFIGS.replace("ONE", value).replace("PASSWORD", &password);
    site.apply(&format!("{}---\n{APP}", configs("first")));
    site.wait_running("web");
    assert_eq!(site.read("web", "/etc/conf/a.conf"), "first");
    assert_eq!(site.read("web", "/etc/login/sub/pass"), password);
    let env = site.exec("web", &["env"]).expect("the environment");
    for line in [
        &format!("PASSWORD={password}"),
        "CONF_LEVEL=info",
        "DEVICE=one",
        "WHOLE=one/info/$(DEVICE)",
    ] {
        assert!(env.lines().any(|l| l == line), "{line} in {env}");
    }
    assert!(!env.contains("GONE="), "{env}");
    let refused = site
        .exec("web", &["note", "/etc/conf/new", "x"])
        .unwrap_err();
    assert!(refused.contains("Read-only file system"), "{refused}");

    // Live, without a restart, and both files of one change.
    let before = site.one.container_processes();
    site.apply(&configs("second"));
    let applied = Instant::now();
    until(PATIENCE, || {
        let a = site.read("web", "/etc/conf/a.conf");
        let b = site.read("web", "/etc/conf/..data/b.conf");
        (a == "second" && b == "second").then_some(())
    })
    .expect("the files change");
    println!(
        "seen inside {} ms after the apply",
        applied.elapsed().as_millis()
    );
    assert_eq!(site.one.container_processes(), before);
    // One that was missing comes, too.
    site.hub
        .skerry(&["create", "config", "nothing", "--from-literal", "x=late"]);
    until(PATIENCE, || {
        let late = site.exec("web", &["read", "/etc/maybe/x"]);
        (late.as_deref() == Ok("late")).then_some(())
    })
    .expect("it comes");
    assert_eq!(site.one.container_processes(), before);
    // Another agent, which sees mounts of its own, writes where apps look.
    site.one.kill();
    site.apply(&configs("third"));
    site.one.start_again();
    until(PATIENCE, || {
        let a = site.exec("web", &["read", "/etc/conf/a.conf"]);
        (a.as_deref() == Ok("third")).then_some(())
    })
    .expect("the files change");
    assert_eq!(site.one.container_processes(), before);

    // On no disk but in the stores, and shown to nobody.
    assert_eq!(
        files_with(&site.one.data(), &password),
        Vec::<PathBuf>::new()
    );
    assert_eq!(
        files_with(site.hub.data(), &password),
        Vec::<PathBuf>::new()
    );
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", before[0]));
    let mounts = mounts.expect("what the app has mounted");
    let memory = mounts.lines().find(|line| line.contains(" /etc/login "));
    let memory = memory.unwrap_or_else(|| panic!("no mount of ours: {mounts}"));
    assert!(
        memory.contains(" - tmpfs ") || memory.contains(" - ramfs "),
        "{memory}"
    );
    assert!(
        memory.contains("noswap") || memory.contains(" - ramfs "),
        "{memory}"
    );
    let file = site.scratch.path().join("diff.yaml");
    fs::write(&file, CONFIGS.replace("PASSWORD", "other-word")).expect("written");
    let file = file.display().to_string();
    let mut shown = String::new();
    for args in [
        &["get", "secrets"][..],
        &["get", "secret", "login", "-o", "yaml"],
        &["get", "secret", "login", "-o", "json"],
        &["describe", "secret", "login"],
        &["events"],
        &["diff", "-f", &file],
    ] {
        let output = site.hub.run(args);
        shown.push_str(&String::from_utf8_lossy(&output.stdout));
        shown.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    assert!(shown.contains("password: "), "{shown}");
    assert!(shown.contains("*** (after)"), "{shown}");
    assert!(!shown.contains("other-word"), "{shown}");
    for (what, text) in [
        ("output", &shown),
        ("log", &site.one.log()),
        ("log", &site.hub.log()),
    ] {
        assert!(
            !text.contains(&password),
            "the secret is in the {what}: {text}"
        );
    }

    // What an app needs stays.
    let used = site
        .hub
        .try_skerry(&["delete", "secret", "login"])
        .unwrap_err();
    assert!(
        used.contains("app default/web uses secret default/login"),
        "{used}"
    );
    let broken = APP.replace("{ name: settings } }", "{ name: typo } }");
    let path = site.scratch.path().join("broken.yaml");
    fs::write(&path, broken).expect("written");
    let no = site
        .hub
        .try_skerry(&["apply", "-f", &path.display().to_string()]);
    let no = no.unwrap_err();
    assert!(
        no.contains("names config default/typo, which is not on the hub"),
        "{no}"
    );

    // Alone, after a power cut.
    site.hub.kill();
    site.one.cut_power();
    site.one.start_again();
    until(PATIENCE, || {
        (!site.one.container_processes().is_empty()).then_some(())
    })
    .expect("it starts alone");
    assert_eq!(
        files_with(&site.one.data(), &password),
        Vec::<PathBuf>::new()
    );
    site.hub.start_again();
    site.hub.wait_online("one");
    site.wait_running("web");
    assert_eq!(site.read("web", "/etc/login/sub/pass"), password);
    assert_eq!(site.read("web", "/etc/conf/a.conf"), "third");

    // Its files go with the app.
    site.hub.skerry(&["delete", "app", "web"]);
    site.hub.wait_for_device("one", "empty", |d| {
        d["apps"].as_array().is_some_and(Vec::is_empty)
    });
    let left = until(PATIENCE, || {
        let left = fs::read_dir(site.one.run_dir().join("configs")).expect("the mount");
        (left.count() == 0).then_some(())
    });
    left.expect("no files are left");
    site.hub.skerry(&["delete", "secret", "login"]);
}

#[test]
fn an_app_waits_for_its_config_and_says_so() {
    let site = site("waits");
    site.apply(APP);
    let device = site.hub.wait_for_device("one", "the reason is shown", |d| {
        let mut apps = d["apps"].as_array().into_iter().flatten();
        apps.any(|a| a["problem"]["reason"] == "ConfigMissing")
    });
    let text = device["apps"][0]["problem"]["message"].to_string();
    assert!(text.contains("the hub has no"), "{text}");
    assert!(site.one.container_processes().is_empty());
    site.hub.skerry(&[
        "create",
        "secret",
        "generic",
        "login",
        "--from-literal=password=x",
    ]);
    let conf = site.scratch.path().join("a.conf");
    fs::write(&conf, "1").expect("written");
    let conf = conf.display().to_string();
    let more = format!("b.conf={conf}");
    site.hub.skerry(&[
        "create",
        "config",
        "settings",
        "--from-file",
        &conf,
        "--from-file",
        &more,
        "--from-literal",
        "LEVEL=debug",
    ]);
    site.wait_running("web");
    assert_eq!(site.read("web", "/etc/conf/b.conf"), "1");
    let twice = site
        .hub
        .try_skerry(&["create", "config", "settings"])
        .unwrap_err();
    assert!(
        twice.contains("there is a config 'settings' already"),
        "{twice}"
    );
    // A key that is missing is the device's to say.
    site.apply(
        &APP.replace("name: web }", "name: other }")
            .replace("key: password, path", "key: nokey, path"),
    );
    site.hub
        .wait_for_device("one", "what is missing is shown", |_| {
            let shown = site.hub.skerry(&["describe", "device", "one"]);
            shown.contains("has no file 'nokey'")
        });
}

const VOLUMES: &str = "apiVersion: skerry/v1
kind: App
metadata: { name: web }
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: test/app:1
        args: [sleep]
        volumeMounts:
        - { name: data, mountPath: /data }
        - { name: memory, mountPath: /memory }
        - { name: scratch, mountPath: /scratch }
      - name: beside
        image: test/app:1
        args: [sleep]
        volumeMounts:
        - { name: memory, mountPath: /shared }
      volumes:
      - { name: data, persistentVolumeClaim: { claimName: web-data, sizeLimit: 64Mi } }
      - { name: memory, emptyDir: { medium: Memory, sizeLimit: 1Mi } }
      - { name: scratch, emptyDir: { sizeLimit: 1Mi } }
";

#[test]
fn volumes_are_limited_copied_backed_up_and_removed() {
    let mut site = site("volumes");
    site.apply(VOLUMES);
    site.wait_running("web");
    let exec = |words: &[&str]| {
        let mut all = vec!["exec", "one/web", "-c", "web", "--", "/bin/app"];
        all.extend(words);
        site.hub.try_skerry(&all)
    };

    // One memory for both containers, with its limit.
    exec(&["note", "/memory/word", "hello"]).expect("written");
    let beside = [
        "exec",
        "one/web",
        "-c",
        "beside",
        "--",
        "/bin/app",
        "read",
        "/shared/word",
    ];
    until(PATIENCE, || {
        (site.hub.try_skerry(&beside).as_deref() == Ok("hello\n")).then_some(())
    })
    .expect("both see it");
    // And one memory by name, which nobody has to ask for.
    exec(&["note", "/dev/shm/word", "shared"]).expect("written");
    let beside = [&beside[..7], &["/dev/shm/word"]].concat();
    assert_eq!(site.hub.try_skerry(&beside).as_deref(), Ok("shared\n"));
    exec(&["fill", "/memory/some", "512"]).expect("it fits");
    let full = exec(&["fill", "/memory/more", "1024"]).unwrap_err();
    assert!(full.contains("No space left on device"), "{full}");
    // On a disk the file system limits it, or the operator hears that not.
    let limited = exec(&["fill", "/scratch/more", "2048"]).is_err();
    let told = || site.hub.skerry(&["events"]).contains("SizeNotLimited");
    match limited {
        true => println!("project quotas bite here"),
        false => until(PATIENCE, || told().then_some(())).expect("it is told"),
    }

    // In and out again, with names that no shell likes.
    let from = site.scratch.path().join("from");
    fs::create_dir_all(from.join("sub dir/deeper")).expect("made");
    let odd = std::ffi::OsStr::from_bytes(b"\xffodd\n'\"$(x)");
    fs::write(from.join("sub dir").join(odd), vec![b'x'; 200_000]).expect("written");
    fs::write(from.join("-rf"), "1").expect("written");
    fs::write(from.join("x".repeat(180)), "2").expect("written");
    std::os::unix::fs::symlink("-rf", from.join("link")).expect("a link");
    let volume = |args: &[&str]| {
        let mut all = vec!["volume"];
        all.extend(args);
        site.hub.skerry(&all)
    };
    let path = |name: &str| site.scratch.path().join(name).display().to_string();
    volume(&["cp", &path("from"), "one:web-data/tree"]);
    assert_eq!(exec(&["read", "/data/tree/-rf"]).as_deref(), Ok("1"));
    volume(&["cp", &path("from/-rf"), "one:web-data/one.conf"]);
    assert_eq!(exec(&["read", "/data/one.conf"]).as_deref(), Ok("1"));
    volume(&["cp", "one:web-data/tree", &path("to")]);
    assert_eq!(tree(&from), tree(&site.scratch.path().join("to")));
    volume(&["cp", "one:web-data/tree/-rf", &path("to/single")]);
    assert_eq!(
        fs::read(site.scratch.path().join("to/single")).expect("there"),
        b"1"
    );
    let try_volume = |args: &[&str]| {
        let mut all = vec!["volume"];
        all.extend(args);
        site.hub.try_skerry(&all).unwrap_err()
    };
    let up = try_volume(&["cp", "one:web-data/../x", "."]);
    assert!(up.contains("'..'"), "{up}");
    let none = try_volume(&["cp", "one:web-data/nothing", &path("nothing")]);
    assert!(none.contains("cannot read nothing"), "{none}");
    assert!(!site.scratch.path().join("nothing").exists());

    // What an app uses stays.
    let list = volume(&["ls", "one"]);
    assert!(list.contains("web-data") && list.contains("web"), "{list}");
    let here = site.one.agent("volume", &["ls"]);
    assert!(here.contains("web-data"), "{here}");
    let used = try_volume(&["rm", "one/web-data"]);
    assert!(
        used.contains("volume default/web-data is used by web"),
        "{used}"
    );

    // Back to what it was, when no app uses it any more.
    let file = path("save.tar.zst");
    volume(&["backup", "one", "web-data", "-o", &file]);
    exec(&["note", "/data/later", "x"]).expect("written");
    let used = try_volume(&["restore", "one", "web-data", &file]);
    assert!(used.contains("is used by web"), "{used}");
    // An agent that is started again has other mounts than the keeper, as a
    // service of systemd has; what is in memory goes with its app all the same.
    site.one.kill();
    site.one.start_again();
    site.hub.skerry(&["delete", "app", "web"]);
    site.hub.wait_for_device("one", "empty", |d| {
        d["apps"].as_array().is_some_and(Vec::is_empty)
    });
    let data = site.one.data().join("volumes/default/web-data");
    let restored = until(PATIENCE, || {
        site.hub
            .try_skerry(&["volume", "restore", "one", "web-data", &file])
            .ok()
    });
    restored.expect("restored once the app is gone");
    assert!(!data.join("later").exists());
    assert_eq!(tree(&from), tree(&data.join("tree")));
    volume(&["restore", "one", "copy", &file]);
    assert_eq!(
        tree(&from),
        tree(&site.one.data().join("volumes/default/copy/tree"))
    );

    // What is no archive changes nothing.
    fs::write(path("no.tar"), vec![b'x'; 100_000]).expect("written");
    let no = try_volume(&["restore", "one", "copy", &path("no.tar")]);
    assert!(no.contains("the archive cannot be read"), "{no}");
    assert_eq!(
        tree(&from),
        tree(&site.one.data().join("volumes/default/copy/tree"))
    );

    volume(&["rm", "one/web-data", "one/default/copy"]);
    assert!(!data.exists());
    let unmounted = until(PATIENCE, || site.one.mounts().is_empty().then_some(()));
    assert!(unmounted.is_some(), "{:?}", site.one.mounts());
    let left = || fs::read_dir(site.one.run_dir().join("scratch")).map_or(0, Iterator::count);
    assert!(until(PATIENCE, || (left() == 0).then_some(())).is_some());
}

/// Paths of a tree with what is there: content or target.
fn tree(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut ahead = vec![dir.to_path_buf()];
    while let Some(now) = ahead.pop() {
        for entry in fs::read_dir(&now).expect("a directory").flatten() {
            let path = entry.path();
            let kind = entry.file_type().expect("a type");
            let content = if kind.is_dir() {
                ahead.push(path.clone());
                Vec::new()
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).expect("a link");
                target.as_os_str().as_bytes().to_vec()
            } else {
                fs::read(&path).expect("a file")
            };
            let inside = path.strip_prefix(dir).expect("inside").to_path_buf();
            found.push((inside, content));
        }
    }
    found.sort();
    found
}

/// One manifest for a fleet: each device's app has its own place, by the
/// device's name and labels.
#[test]
fn devices_tell_their_name_and_labels_to_apps_and_paths() {
    let site = site("labels");
    site.hub.skerry(&["label", "device", "one", "site=berlin"]);
    let manifest = |expr: &str| {
        format!(
            "apiVersion: skerry/v1
kind: App
metadata: {{ name: web }}
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: test/app:1
        args: [note, /data/$(WHERE), \"$(SITE) $$(SITE) $(OTHER)\", \"sleep\"]
        env:
        - {{ name: DEVICE, valueFrom: {{ fieldRef: {{ fieldPath: spec.nodeName }} }} }}
        - {{ name: SITE, valueFrom: {{ fieldRef: {{ fieldPath: \"device.labels['site']\" }} }} }}
        - {{ name: NONE, valueFrom: {{ fieldRef: {{ fieldPath: \"device.labels['none']\" }} }} }}
        - {{ name: WHERE, value: note }}
        volumeMounts:
        - {{ name: data, mountPath: /data, subPathExpr: \"{expr}\" }}
      volumes:
      - {{ name: data, persistentVolumeClaim: {{ claimName: data }} }}
"
        )
    };
    site.apply(&manifest("$(SITE)/./$(DEVICE)"));
    let place = site.one.data().join("volumes/default/data/berlin/one/note");
    let noted = || {
        fs::read_to_string(&place)
            .ok()
            .filter(|text| !text.is_empty())
    };
    let noted = until(PATIENCE, noted).unwrap_or_else(|| panic!("{}", site.one.log()));
    assert!(noted.contains("berlin $(SITE) $(OTHER)"), "{noted}");
    for (expr, expected) in [
        ("$(SITE)/$(OTHER)", "refers to a variable OTHER"),
        ("$(NONE)", "is empty with its variables put in"),
    ] {
        site.apply(&manifest(expr));
        let device = site.hub.wait_for_device("one", expected, |device| {
            device["apps"].to_string().contains(expected)
        });
        assert!(
            device["apps"].to_string().contains("subPathExpr"),
            "{device}"
        );
    }
}
