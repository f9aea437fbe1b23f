use super::*;
use crate::runtime::{Access, HookStage, Owner};
use std::os::unix::fs::PermissionsExt;

/// As nvidia-ctk writes them: nodes with numbers, control nodes, libraries and
/// hooks for all devices, a device for all of them.
const GPU: &str = r#"---
cdiVersion: 0.7.0
kind: vendor.com/gpu
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/gpu0
      major: 195
      minor: 0
      fileMode: 438
      permissions: rwm
    - path: /dev/dri/card0
      hostPath: /dev/dri/card7
      permissions: r
      gid: 44
    additionalGids: [0, 44]
- name: "1"
  containerEdits:
    deviceNodes:
    - path: /dev/gpu1
- name: all
  containerEdits:
    deviceNodes:
    - path: /dev/gpu0
    - path: /dev/gpu1
containerEdits:
  env:
  - VENDOR_VISIBLE_DEVICES=void
  deviceNodes:
  - path: /dev/gpuctl
  mounts:
  - hostPath: /usr/lib/libgpu.so.1.2
    containerPath: /usr/lib/libgpu.so.1.2
    options: [ro, nosuid, nodev, rbind, rprivate]
  - hostPath: /run/gpud/socket
    containerPath: /run/gpud/socket
    type: none
    options: [nosuid, nodev, rbind, rprivate, noexec]
  hooks:
  - hookName: createContainer
    path: /usr/bin/gpu-hook
    args: [gpu-hook, create-symlinks, --link, libgpu.so.1.2::/usr/lib/libgpu.so.1]
    env: [GPU_DEBUG=false]
  - hookName: createContainer
    path: /usr/bin/gpu-hook
    args: [gpu-hook, update-ldcache, --folder, /usr/lib]
    timeout: 20
"#;

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    dir
}

fn registry(files: &[(&str, &str)]) -> Registry {
    Registry::read(&[directory(files).path().to_owned(), "/nonexistent".into()])
}

#[test]
fn what_a_vendors_tool_writes_is_understood() {
    let registry = registry(&[("gpu.yaml", GPU), ("notes.txt", "not one of them")]);
    let gpu = registry.device("vendor.com/gpu=0").unwrap();
    let node = &gpu.own.devices[0];
    assert_eq!(node.source, Path::new("/dev/gpu0"));
    assert_eq!((node.mode, node.access), (Some(0o666), Access::ReadWrite));
    let unsaid = Owner::Said {
        uid: None,
        gid: None,
    };
    assert_eq!(node.owner, unsaid);
    let card = &gpu.own.devices[1];
    assert_eq!(card.source, Path::new("/dev/dri/card7"));
    assert_eq!(
        (card.target.as_str(), card.access),
        ("/dev/dri/card0", Access::Read)
    );
    let group = Owner::Said {
        uid: None,
        gid: Some(44),
    };
    assert_eq!(card.owner, group);
    assert_eq!(gpu.own.groups, [44], "0 is none");
    let [library, socket] = &gpu.common.mounts[..] else {
        panic!("{:?}", gpu.common.mounts);
    };
    assert!(library.read_only && !library.no_exec);
    assert!(!socket.read_only && socket.no_exec);
    let [links, index] = &gpu.common.hooks[..] else {
        panic!("{:?}", gpu.common.hooks);
    };
    assert_eq!(links.stage, HookStage::CreateContainer);
    assert_eq!(links.path, Path::new("/usr/bin/gpu-hook"));
    assert_eq!(links.args[1], "create-symlinks");
    assert_eq!((links.timeout_secs, index.timeout_secs), (None, Some(20)));
    assert!(links.file.ends_with("gpu.yaml"));
    let counted = ["vendor.com/gpu=0", "vendor.com/gpu=1"];
    assert_eq!(registry.kinds()["vendor.com/gpu"], counted);
}

#[test]
fn what_devices_share_is_given_once() {
    let registry = registry(&[("gpu.yaml", GPU)]);
    let (mut given, mut files) = (Given::default(), BTreeSet::new());
    for name in ["vendor.com/gpu=0", "vendor.com/gpu=1", "vendor.com/gpu=all"] {
        registry
            .device(name)
            .unwrap()
            .add_to(&mut given, &mut files);
    }
    assert_eq!((given.hooks.len(), given.mounts.len()), (2, 2));
    let mut targets: Vec<_> = given.devices.iter().map(|one| &one.target).collect();
    targets.sort();
    assert_eq!(
        targets,
        ["/dev/dri/card0", "/dev/gpu0", "/dev/gpu1", "/dev/gpuctl"]
    );
}

#[test]
fn a_later_directory_goes_first_and_two_files_of_one_contradict() {
    let other = GPU.replace("/dev/gpuctl", "/dev/newctl");
    let (etc, run) = (
        directory(&[("a.yaml", GPU)]),
        directory(&[("a.yaml", &other)]),
    );
    let found = Registry::read(&[etc.path().to_owned(), run.path().to_owned()]);
    let gpu = found.device("vendor.com/gpu=0").unwrap();
    assert_eq!(gpu.common.devices[0].source, Path::new("/dev/newctl"));
    let both = registry(&[("a.yaml", GPU), ("b.yaml", &other)]);
    let why = both.device("vendor.com/gpu=0").unwrap_err();
    assert!(
        why.contains("a.yaml and in") && why.contains("b.yaml: remove it from one"),
        "{why}"
    );
    // A third one does not make it right.
    let three = registry(&[("a.yaml", GPU), ("b.yaml", &other), ("c.yaml", GPU)]);
    assert!(three.device("vendor.com/gpu=0").is_err());
}

#[test]
fn files_that_break_a_rule_are_refused_with_it() {
    let with = |from: &str, to: &str| {
        assert!(GPU.contains(from), "{from}");
        let text = GPU.replace(from, to);
        let registry = registry(&[("gpu.yaml", &text)]);
        registry.device("vendor.com/gpu=0").unwrap_err()
    };
    for (from, to, expected) in [
        (
            "cdiVersion: 0.7.0",
            "cdiVersion: 0.6.0",
            "older than additionalGids: set it to 0.7.0",
        ),
        (
            "cdiVersion: 0.7.0",
            "cdiVersion: 9.0.0",
            "'9.0.0' is not known here",
        ),
        ("cdiVersion: 0.7.0\n", "", "cdiVersion"),
        ("DEVICES=void", "DEVICES", "is not NAME=value"),
        (
            "createContainer",
            "createcontainer",
            "none of prestart, createRuntime",
        ),
        (
            "path: /usr/bin/gpu-hook",
            "path: gpu-hook",
            "'gpu-hook' is not an absolute path",
        ),
        (
            "path: /usr/bin/gpu-hook",
            "path: /usr/../tmp/x",
            "without '..'",
        ),
        ("timeout: 20", "timeout: 0", "timeout 0 of its hook"),
        (
            "timeout: 20",
            "timeout: 3600",
            "is not from 1 to 90 seconds",
        ),
        ("[GPU_DEBUG=false]", "[GPU_DEBUG]", "is not NAME=value"),
        (
            "permissions: r\n",
            "permissions: rx\n",
            "not some of r, w and m",
        ),
        ("type: none", "type: tmpfs", "is of type 'tmpfs'"),
        ("rprivate]\n  - ", "rshared]\n  - ", "the option 'rshared'"),
        (
            "additionalGids",
            "additionalGid",
            "unknown field `additionalGid`",
        ),
        ("name: \"1\"", "name: \"0\"", "twice"),
        (
            "additionalGids: [0, 44]",
            "intelRdt: {closID: a}",
            "wants intelRdt",
        ),
    ] {
        let why = with(from, to);
        assert!(why.contains(expected), "{to}: {why}");
        assert!(why.contains("gpu.yaml"), "{why}");
    }
    let net = r#"{"cdiVersion": "1.1.0", "kind": "other.org/net", "devices": [{"name": "a",
        "containerEdits": {"netDevices": [{"hostInterfaceName": "can0", "name": "can0"}]}}]}"#;
    let net = registry(&[("net.json", net), ("bad.json", "{")]);
    let why = net.device("other.org/net=a").unwrap_err();
    assert!(why.contains("network: host"), "{why}");
    let why = net.device("other.org/net=b").unwrap_err();
    assert!(why.contains("bad.json"), "{why}");
}

#[test]
fn files_that_others_can_write_are_not_believed() {
    let dir = directory(&[("gpu.yaml", GPU)]);
    let read = || Registry::read(&[dir.path().to_owned()]);
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let file = dir.path().join("gpu.yaml");
    mode(&file, 0o666);
    let why = read().device("vendor.com/gpu=0").unwrap_err();
    assert!(
        why.contains("chmod go-w") && why.contains("gpu.yaml"),
        "{why}"
    );
    mode(&file, 0o644);
    mode(dir.path(), 0o777);
    let why = read().device("vendor.com/gpu=0").unwrap_err();
    assert!(why.contains("can be written by others"), "{why}");
    mode(dir.path(), 0o755);
    read().device("vendor.com/gpu=0").unwrap();
}
