//! Whole boards: what is said of them, and with which remedy.

use super::*;
use crate::facts::tests::{Tree, pi_3, pi_4, x86_box, zero_2};

/// Findings that hang on nothing but the tree.
fn of_tree(tree: &Tree) -> Vec<Finding> {
    let host = tree.host();
    vec![
        cgroup::find(&host),
        memory_cgroup::find(&host),
        overlay::find(&host),
        user_namespaces::find(&host),
        file_system::find(&host, Path::new("/var/lib/skerry-agent")),
        under_voltage::find(&host),
        throttling::find(&host),
        temperature::find(&host),
        low_memory::find(&host),
        crash::find(&host),
        watchdog::find(&host),
    ]
}

fn troubles(tree: &Tree) -> Vec<String> {
    let found = of_tree(tree);
    for finding in &found {
        let is_trouble = matches!(finding.verdict, Verdict::Poor | Verdict::Bad);
        assert_eq!(is_trouble, !finding.remedy.is_empty(), "{finding:?}");
    }
    let troubles = found
        .into_iter()
        .filter(|f| matches!(f.verdict, Verdict::Poor | Verdict::Bad));
    troubles.map(|f| f.kind).collect()
}

#[test]
fn each_board_has_its_own_troubles() {
    assert_eq!(
        troubles(&pi_3()),
        [
            "NoCgroups",
            "NoMemoryLimits",
            "NoUserNamespaces",
            "UnderVoltage"
        ]
    );
    assert_eq!(
        troubles(&pi_4()),
        [
            "NoMemoryLimits",
            "NoUserNamespaces",
            "UnderVoltage",
            "Throttled",
            "Overheating",
            "NoWatchdog"
        ]
    );
    assert_eq!(
        troubles(&zero_2()),
        [
            "NoOverlayfs",
            "NoUserNamespaces",
            "MemoryPressure",
            "NoWatchdog"
        ]
    );
    assert_eq!(
        troubles(&x86_box()),
        [
            "NoCgroups",
            "NoMemoryLimits",
            "NoOverlayfs",
            "NoUserNamespaces",
            "KernelCrashed",
            "NoWatchdog"
        ]
    );
}

#[test]
fn remedies_are_those_of_the_board() {
    let remedy = |tree: &Tree, kind: &str| {
        let found = of_tree(tree).into_iter().find(|f| f.kind == kind);
        found.unwrap().remedy
    };
    assert_eq!(
        remedy(&pi_4(), "NoMemoryLimits"),
        "sed -i '1s/$/ cgroup_enable=memory/' /boot/firmware/cmdline.txt && reboot"
    );
    assert!(remedy(&pi_4(), "NoWatchdog").contains("dtparam=watchdog=on"));
    assert!(remedy(&x86_box(), "NoWatchdog").contains("softdog"));
    assert!(remedy(&zero_2(), "NoWatchdog").contains("watchdog -T 15"));
    assert!(remedy(&x86_box(), "KernelCrashed").contains("/sys/fs/pstore/dmesg-"));
}

#[test]
fn looking_for_the_hub_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("data");
    let kinds =
        |dir: &Path| -> Vec<String> { conditions(dir).into_iter().map(|c| c.kind).collect() };
    assert!(kinds(&missing).contains(&"DataDirUnwritable".to_string()));
    assert!(!missing.exists());
    let before = std::fs::metadata(dir.path()).unwrap().modified().unwrap();
    assert!(!kinds(dir.path()).contains(&"DataDirUnwritable".to_string()));
    let after = std::fs::metadata(dir.path()).unwrap().modified().unwrap();
    assert_eq!(before, after);
}

#[test]
fn every_trouble_comes_with_a_remedy() {
    let bad = Finding::new("Test", Verdict::Bad, "broken", "mend it");
    assert_eq!(
        text(std::slice::from_ref(&bad)),
        "FAIL  broken\n      -> mend it\n"
    );
    let json = to_json(&[bad, Finding::good("Fine", "fine")]);
    assert_eq!(json["items"][0]["verdict"], "bad");
    assert_eq!(json["items"][1]["remedy"], "");
}

/// On this machine, whatever it is: every diagnosis once, each with a remedy
/// if it is a trouble, and within the bound of what a reply holds.
#[test]
fn this_machine_is_examined_whole() {
    let dir = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let known = Known {
        broker: Some(format!("mqtt://{}", listener.local_addr().unwrap())),
        trust: None,
        ahead_ms: Some(-90_000),
    };
    let found = examine(dir.path(), &known);
    let kinds: std::collections::BTreeSet<&str> = found.iter().map(|f| f.kind.as_str()).collect();
    assert_eq!(kinds.len(), found.len(), "{kinds:?}");
    assert!(found.len() <= Finding::MAX);
    for finding in &found {
        let is_trouble = matches!(finding.verdict, Verdict::Poor | Verdict::Bad);
        assert_eq!(is_trouble, !finding.remedy.is_empty(), "{finding:?}");
    }
    assert!(
        found
            .iter()
            .any(|f| f.kind == "TimeSkew" && f.verdict == Verdict::Poor)
    );
    assert!(
        found
            .iter()
            .any(|f| f.kind == "BrokerUnreachable" && f.verdict == Verdict::Good)
    );
}
