//! The cases of the OCI runtime validation suite (runtime-tools), each with
//! what shows it here, or why it does not apply. `docs/oci-validation.md` is
//! this table; SKERRY_WRITE_GOLDEN=1 writes it anew.

use std::fs;
use std::path::Path;

use skerry_agent::runtime::{ContainerSpec, ExitStatus};

use crate::support::{Machine, machine_is_fit, output_of, run, shell};

/// What is known of a case.
enum How {
    /// A shell script in a container made so says these lines.
    Runs(
        fn(&mut ContainerSpec),
        &'static str,
        &'static [&'static str],
    ),
    /// A test of this program by module and name shows it.
    Test(&'static str, &'static str),
    /// It does not apply, for this reason.
    Not(&'static str),
}

use How::{Not, Runs, Test};

fn usual(_: &mut ContainerSpec) {}

fn named(spec: &mut ContainerSpec) {
    spec.hostname = "kiosk".into();
}

const PLACE: &str = "the place of a container's cgroup is ours alone";
const SHELL: &str = "there is no runtime command line: the keeper is asked through its socket";
const BUNDLE: &str = "no bundle is taken from outside: ours is private and made for each container";
const SPREAD: &str = "the root's propagation cannot be chosen: nothing comes in or gets out";

/// Case, and how it stands.
const CASES: &[(&str, How)] = &[
    ("config_updates_without_affect", Not(BUNDLE)),
    ("create", Test("life", "refusals_say_why_and_leave_nothing")),
    (
        "default",
        Runs(
            usual,
            "for n in null zero full random urandom tty; do [ -c /dev/$n ] || echo $n; done; \
             for n in fd stdin stdout stderr ptmx; do readlink /dev/$n; done",
            &[
                "/proc/self/fd",
                "/proc/self/fd/0",
                "/proc/self/fd/1",
                "/proc/self/fd/2",
                "pts/ptmx",
            ],
        ),
    ),
    ("delete", Test("life", "nothing_is_left_over")),
    (
        "delete_only_create_resources",
        Test("life", "nothing_is_left_over"),
    ),
    (
        "delete_resources",
        Test("life", "a_running_container_is_removed_with_all_it_started"),
    ),
    (
        "hooks",
        Test(
            "hooks",
            "hooks_run_in_their_order_and_place_and_their_links_are_seen",
        ),
    ),
    (
        "hooks_stdin",
        Test(
            "hooks",
            "hooks_run_in_their_order_and_place_and_their_links_are_seen",
        ),
    ),
    ("hostname", Runs(named, "hostname", &["kiosk"])),
    ("kill", Test("life", "signals_and_kill_arrive")),
    (
        "kill_no_effect",
        Test("life", "refusals_say_why_and_leave_nothing"),
    ),
    ("killsig", Test("life", "signals_and_kill_arrive")),
    (
        "linux_cgroups_blkio",
        Not(
            "only a weight can be set, where the kernel's scheduler takes one; a unit test of \
             its file (limits.rs) stands for it, since no test kernel has such a scheduler",
        ),
    ),
    (
        "linux_cgroups_cpus",
        Test("limits", "limits_are_changed_while_it_runs"),
    ),
    (
        "linux_cgroups_devices",
        Test("isolation", "only_the_devices_given_can_be_opened"),
    ),
    (
        "linux_cgroups_hugetlb",
        Test(
            "limits",
            "a_limit_without_its_controller_is_refused_with_the_remedy",
        ),
    ),
    (
        "linux_cgroups_memory",
        Test("limits", "limits_stand_in_the_cgroup_and_use_is_read"),
    ),
    (
        "linux_cgroups_network",
        Not("classes and priorities of v1 are not used; networks have rules of their own"),
    ),
    (
        "linux_cgroups_pids",
        Test("limits", "a_fork_bomb_is_held_and_removed"),
    ),
    ("linux_cgroups_relative_*", Not(PLACE)),
    (
        "linux_devices",
        Test("isolation", "only_the_devices_given_can_be_opened"),
    ),
    (
        "linux_gid_mappings",
        Test("users", "root_inside_is_root_of_its_own_things_only"),
    ),
    (
        "linux_masked_paths",
        Test(
            "isolation",
            "what_is_masked_is_empty_and_what_is_read_only_refuses",
        ),
    ),
    ("linux_mount_label", Not("SELinux is not supported")),
    (
        "linux_ns_itype",
        Test("inside", "namespaces_devices_and_proc"),
    ),
    (
        "linux_ns_nopath",
        Test("inside", "namespaces_devices_and_proc"),
    ),
    (
        "linux_ns_path",
        Test("sandbox", "containers_share_network_and_ipc_over_restarts"),
    ),
    (
        "linux_ns_path_type",
        Not("paths of namespaces are ours alone: those of a sandbox"),
    ),
    (
        "linux_process_apparmor_profile",
        Test("isolation", "app_armor_bites"),
    ),
    (
        "linux_readonly_paths",
        Test(
            "isolation",
            "what_is_masked_is_empty_and_what_is_read_only_refuses",
        ),
    ),
    ("linux_rootfs_propagation", Not(SPREAD)),
    ("linux_rootfs_propagation_shared", Not(SPREAD)),
    ("linux_rootfs_propagation_unbindable", Not(SPREAD)),
    (
        "linux_seccomp",
        Test("escape", "seccomp_capabilities_and_privileges_bite"),
    ),
    (
        "linux_sysctl",
        Test("sandbox", "containers_share_network_and_ipc_over_restarts"),
    ),
    (
        "linux_uid_mappings",
        Test("users", "root_inside_is_root_of_its_own_things_only"),
    ),
    ("misc_props", Not(BUNDLE)),
    (
        "mounts",
        Runs(
            usual,
            "for m in '/proc proc' '/dev tmpfs' '/dev/pts devpts' '/dev/shm tmpfs' \
             '/dev/mqueue mqueue' '/sys sysfs'; do grep -q \" $m \" /proc/mounts || echo no $m; \
             done; for m in /proc /dev/shm /dev/mqueue /sys; do \
             grep \" $m \" /proc/mounts | grep nosuid | grep nodev | grep -q noexec || \
             echo loose $m; done; grep ' /sys ' /proc/mounts | grep -q ' ro,' && echo sys is ro",
            &["sys is ro"],
        ),
    ),
    (
        "mounts_recursive",
        Test("inside", "volumes_are_mounted_and_read_only_means_it"),
    ),
    ("pidfile", Not(SHELL)),
    (
        "poststart",
        Test(
            "hooks",
            "hooks_run_in_their_order_and_place_and_their_links_are_seen",
        ),
    ),
    (
        "poststart_fail",
        Test("hooks", "a_hook_that_fails_fails_the_start_and_says_why"),
    ),
    (
        "poststop",
        Test(
            "hooks",
            "hooks_run_in_their_order_and_place_and_their_links_are_seen",
        ),
    ),
    (
        "poststop_fail",
        Test("hooks", "a_hook_that_fails_fails_the_start_and_says_why"),
    ),
    (
        "prestart",
        Test(
            "hooks",
            "hooks_run_in_their_order_and_place_and_their_links_are_seen",
        ),
    ),
    (
        "prestart_fail",
        Test("hooks", "a_hook_that_fails_fails_the_start_and_says_why"),
    ),
    (
        "process",
        Test("inside", "environment_directory_user_and_arguments"),
    ),
    (
        "process_capabilities",
        Test("isolation", "capabilities_are_added_and_dropped"),
    ),
    (
        "process_capabilities_fail",
        Not(
            "a capability that does not exist is refused with the specification, before any \
             container is made (a unit test of spec/tests.rs)",
        ),
    ),
    (
        "process_oom_score_adj",
        Runs(usual, "cat /proc/self/oom_score_adj", &["0"]),
    ),
    ("process_rlimits", Runs(usual, "ulimit -S -n", &["1024"])),
    ("process_rlimits_fail", Not("an app cannot choose them")),
    (
        "process_user",
        Test("inside", "environment_directory_user_and_arguments"),
    ),
    (
        "root_readonly_true",
        Test(
            "inside",
            "the_root_is_layered_fresh_and_read_only_when_asked",
        ),
    ),
    (
        "start",
        Test("life", "a_container_runs_and_its_end_and_output_are_known"),
    ),
    (
        "state",
        Test("life", "a_container_runs_and_its_end_and_output_are_known"),
    ),
];

/// The tests that cases name, to see that they are there.
const SOURCES: &[(&str, &str)] = &[
    ("escape", include_str!("escape.rs")),
    ("hooks", include_str!("hooks.rs")),
    ("inside", include_str!("inside.rs")),
    ("isolation", include_str!("isolation.rs")),
    ("life", include_str!("life.rs")),
    ("limits", include_str!("limits.rs")),
    ("sandbox", include_str!("sandbox.rs")),
    ("users", include_str!("users.rs")),
];

fn table() -> String {
    let count = |wanted: fn(&How) -> bool| CASES.iter().filter(|(_, how)| wanted(how)).count();
    let pass = count(|how| !matches!(how, Not(_)));
    let mut text = format!(
        "# OCI runtime validation\n\n\
         The cases of the validation suite of opencontainers/runtime-tools, stated again as tests \
         of ours and run\nagainst our keeper and helper, on cgroup v1 and v2: {pass} of {} pass, \
         {} do not apply or are of what is not supported, none fails. Written by\n`agent/tests/runtime/oci_validation.rs`, which \
         fails when a case does.\n\n| case | result | shown by, or why not |\n|---|---|---|\n",
        CASES.len(),
        CASES.len() - pass,
    );
    for (name, how) in CASES {
        let (result, why) = match how {
            Runs(..) => ("pass", "`oci_validation`".to_owned()),
            Test(module, test) => ("pass", format!("`{module}::{test}`")),
            Not(reason) => ("not applicable", (*reason).to_owned()),
        };
        text.push_str(&format!("| {name} | {result} | {why} |\n"));
    }
    text
}

#[test]
fn the_table_is_true() {
    for (name, how) in CASES {
        if let Test(module, test) = how {
            let source = SOURCES.iter().find(|(known, _)| known == module);
            let (_, source) = source.unwrap_or_else(|| panic!("{name}: {module} is not known"));
            let there = source.contains(&format!("#[test]\nfn {test}()"));
            assert!(there, "{name}: {module}::{test} is not there");
        }
    }
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        for (name, how) in CASES {
            let Runs(change, script, expected) = how else {
                continue;
            };
            let mut spec = shell(&name.replace('_', "-"), script);
            change(&mut spec);
            let (status, lines) = output_of(&runtime, spec).await;
            assert_eq!(status, ExitStatus::Code(0), "{name}: {lines:?}");
            assert_eq!(lines, *expected, "{name}");
        }
        runtime.shutdown().await.expect("ended");
    });
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/oci-validation.md");
    if std::env::var_os("SKERRY_WRITE_GOLDEN").is_some() {
        fs::write(&path, table()).expect("written");
    }
    // An emulated machine has no documents.
    if let Ok(document) = fs::read_to_string(&path) {
        assert_eq!(document, table(), "SKERRY_WRITE_GOLDEN=1 writes it anew");
    }
}
