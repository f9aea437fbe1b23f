//! What a container may do, and as whom: what the manifest asks for, as far as
//! this device allows it.

use crate::core::CreateContainer;
use crate::runtime::{NO_APP_ARMOR, Security, app_armor_confines};
use skerry_wire::pod::Profile;

/// Whom the container runs as: the image's user, unless the app names one.
pub fn user(create: &CreateContainer, of_image: &str) -> Result<String, String> {
    let container = create.spec();
    let user = container.user.as_deref().unwrap_or(of_image);
    if container.security.run_as_non_root {
        let name = user.split(':').next().unwrap_or_default();
        let why = match name.parse::<u32>() {
            Ok(0) => "it would run as root",
            Ok(_) => return Ok(user.to_owned()),
            Err(_) if name.is_empty() || name == "root" => "it would run as root",
            Err(_) => "only a number is known not to be root",
        };
        return Err(format!(
            "'runAsNonRoot: true' does not hold for the user '{user}': {why}; write runAsUser with a number above 0"
        ));
    }
    Ok(user.to_owned())
}

/// Capabilities that are as good as root on the device.
const AS_GOOD_AS_ROOT: [&str; 11] = [
    "ALL",
    "BPF",
    "DAC_READ_SEARCH",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "PERFMON",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_PTRACE",
    "SYS_RAWIO",
];

/// What the container may do. What is as good as root on the device only where
/// its own configuration allows that.
pub fn security(create: &CreateContainer, allow_privileged: bool) -> Result<Security, String> {
    let pod = &create.assignment.pod;
    let wanted = &create.spec().security;
    let unconfined = |profile: &Profile| *profile == Profile::Unconfined;
    let capability = wanted.capabilities_add.iter().find(|name| {
        let plain = name.strip_prefix("CAP_").unwrap_or(name);
        AS_GOOD_AS_ROOT.contains(&plain)
    });
    let what = [
        (wanted.privileged, "'privileged: true'".to_owned()),
        (pod.host_pid, "'hostPID: true'".to_owned()),
        (pod.host_ipc, "'hostIPC: true'".to_owned()),
        (
            unconfined(&wanted.seccomp),
            "an unconfined seccomp profile".to_owned(),
        ),
        (
            match &wanted.app_armor {
                Profile::RuntimeDefault => false,
                Profile::Unconfined => true,
                Profile::Localhost(name) => !app_armor_confines(name),
            },
            "an unconfined AppArmor profile".to_owned(),
        ),
        (wanted.unmasked_proc, "'procMount: Unmasked'".to_owned()),
        (
            capability.is_some(),
            format!("the capability {}", capability.map_or("", String::as_str)),
        ),
    ];
    if let Some((_, what)) = what.iter().find(|(asked, _)| *asked)
        && !allow_privileged
    {
        return Err(format!(
            "{what} is not allowed on this device: leave it out, or set 'allowPrivileged: true' in the agent's configuration"
        ));
    }
    let filtered = !wanted.privileged && !unconfined(&wanted.seccomp);
    if wanted.allow_privilege_escalation && filtered {
        return Err(
            "'allowPrivilegeEscalation: true' works with 'seccompProfile: {type: Unconfined}' only: leave it out, or start the program as the user that it needs"
                .into(),
        );
    }
    if let Profile::Localhost(name) = &wanted.seccomp {
        return Err(format!(
            "the seccomp profile {name} cannot be used: only RuntimeDefault and Unconfined are supported"
        ));
    }
    Ok(Security {
        privileged: wanted.privileged,
        allow_privilege_escalation: wanted.allow_privilege_escalation,
        capabilities_add: wanted.capabilities_add.clone(),
        capabilities_drop: wanted.capabilities_drop.clone(),
        seccomp_unconfined: unconfined(&wanted.seccomp),
        app_armor: match &wanted.app_armor {
            Profile::RuntimeDefault => None,
            Profile::Unconfined => Some(NO_APP_ARMOR.into()),
            Profile::Localhost(name) => Some(name.clone()),
        },
        unmasked_proc: wanted.unmasked_proc,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::ContainerId;
    use skerry_wire::{AppRef, Assignment, ContainerSpec, Digest, ImageRef, PodSpec, RevisionId};

    fn create(change: impl FnOnce(&mut PodSpec)) -> CreateContainer {
        let image = ImageRef {
            reference: "x".into(),
            manifest: Digest::of(b"x"),
            manifest_size: 1,
        };
        let container = ContainerSpec::new("web".parse().unwrap(), image);
        let mut pod = PodSpec::new(vec![container]);
        change(&mut pod);
        let app = AppRef {
            namespace: "default".parse().unwrap(),
            name: "web".parse().unwrap(),
        };
        CreateContainer {
            id: ContainerId::new("web.1").unwrap(),
            log_name: "log".into(),
            log_shares: 1,
            assignment: Assignment::new(app, RevisionId(Digest::of(b"1")), pod),
            container: 0,
            configs: Default::default(),
        }
    }

    #[test]
    fn what_is_as_good_as_root_needs_the_devices_own_word() {
        let refused = |what: &str, change: fn(&mut PodSpec)| {
            let create = create(change);
            let why = security(&create, false).unwrap_err();
            let expected = format!(
                "{what} is not allowed on this device: leave it out, or set 'allowPrivileged: true' in the agent's configuration"
            );
            assert_eq!(why, expected);
            // Where it is allowed, some of it needs something besides.
            if let Err(why) = security(&create, true) {
                assert!(!why.contains("allowPrivileged"), "{why}");
            }
        };
        refused("'privileged: true'", |pod| {
            pod.containers[0].security.privileged = true;
        });
        refused("'hostPID: true'", |pod| pod.host_pid = true);
        refused("'hostIPC: true'", |pod| pod.host_ipc = true);
        refused("an unconfined seccomp profile", |pod| {
            pod.containers[0].security.seccomp = Profile::Unconfined;
        });
        refused("an unconfined AppArmor profile", |pod| {
            pod.containers[0].security.app_armor = Profile::Unconfined;
        });
        refused("'procMount: Unmasked'", |pod| {
            pod.containers[0].security.unmasked_proc = true;
        });
        refused("the capability CAP_SYS_ADMIN", |pod| {
            let add = &mut pod.containers[0].security.capabilities_add;
            *add = vec!["NET_ADMIN".into(), "CAP_SYS_ADMIN".into()];
        });
        for capability in AS_GOOD_AS_ROOT {
            let create = create(|pod| {
                pod.containers[0].security.capabilities_add = vec![capability.into()];
            });
            assert!(security(&create, false).is_err(), "{capability}");
            assert!(security(&create, true).is_ok(), "{capability}");
        }
        // What every app may have.
        let usual = security(&create(|_| ()), false).unwrap();
        assert_eq!(usual, Security::default());
        let more = create(|pod| {
            pod.containers[0].security.capabilities_add = vec!["NET_ADMIN".into()];
            pod.containers[0].security.run_as_non_root = true;
        });
        assert!(security(&more, false).is_ok());
    }

    #[test]
    fn who_must_not_be_root_is_a_number() {
        let with = |of_app: Option<&str>, of_image: &str| {
            let create = create(|pod| {
                pod.containers[0].security.run_as_non_root = true;
                pod.containers[0].user = of_app.map(str::to_owned);
            });
            user(&create, of_image)
        };
        assert_eq!(with(None, "1000:1000").as_deref(), Ok("1000:1000"));
        assert_eq!(with(Some("1000"), "root").as_deref(), Ok("1000"));
        for (of_app, of_image) in [
            (None, ""),
            (None, "root"),
            (None, "0:1000"),
            (None, "web"),
            (Some("0"), "1000"),
        ] {
            let why = with(of_app, of_image).unwrap_err();
            assert!(why.contains("write runAsUser"), "{why}");
        }
    }
}
