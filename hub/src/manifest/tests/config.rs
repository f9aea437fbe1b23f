//! Configs and secrets, and what apps take from them.

use super::*;

const CONFIGS: &str = "apiVersion: skerry/v1
kind: Config
metadata: { name: settings, namespace: shop }
data: { app.conf: \"a = 1\\n\" }
binaryData: { logo.png: //79 }
---
apiVersion: v1
kind: Secret
metadata: { name: login, creationTimestamp: null }
type: Opaque
immutable: true
data: { user: cm9vdA== }
stringData: { password: hunter2 }
";

#[test]
fn configs_and_secrets_are_read_as_kubernetes_has_them() {
    let objects = parse("x", CONFIGS).unwrap_or_else(|errors| panic!("{}", shown(&errors)));
    let [Object::Config(config), Object::Config(secret)] = objects.as_slice() else {
        panic!("{objects:?}");
    };
    assert_eq!(
        config.config.reference().to_string(),
        "config shop/settings"
    );
    assert_eq!(config.config.data.0["logo.png"], [0xff, 0xfe, 0xfd]);
    assert_eq!(secret.config.data.0["user"], b"root");
    assert!(secret.immutable);
    assert!(!format!("{objects:?}").contains("hunter2"));
    for object in [config, secret] {
        let yaml = config_to_yaml(object, |_| Values::Clear);
        assert_eq!(parse("x", &yaml).unwrap(), [Object::Config(object.clone())]);
    }
    assert!(!config_to_json(secret).to_string().contains("hunter2"));
}

#[test]
fn a_secret_that_was_printed_with_its_values_hidden_is_not_taken_for_new_values() {
    let objects = parse("x", CONFIGS).unwrap();
    let [_, Object::Config(secret)] = objects.as_slice() else {
        panic!("{objects:?}");
    };
    let printed = config_to_yaml(secret, |_| Values::Hidden);
    assert!(refused(&printed).contains("it stays as it is then"));
    // Who really means it can say so, and it comes back the same.
    let stars = CONFIGS.replace("user: cm9vdA==", "user: Kioq");
    let objects = parse("x", &stars).unwrap();
    let Object::Config(secret) = &objects[1] else {
        panic!("{objects:?}");
    };
    assert_eq!(secret.config.data.0["user"], b"***");
    let yaml = config_to_yaml(secret, |_| Values::Clear);
    assert_eq!(parse("x", &yaml).unwrap(), [Object::Config(secret.clone())]);
}

#[test]
fn what_is_wrong_with_a_config_is_said() {
    for (from, to, expected) in [
        ("app.conf:", "a/b:", "'a/b' is not a name of a file"),
        ("app.conf:", "..data:", "'..data' is not a name of a file"),
        ("//79", "x", "is not base64"),
        ("kind: Config", "kind: Confg", "there is no kind 'Confg'"),
        (
            "binaryData:",
            "stringData:",
            "write data: there it is plain text",
        ),
        ("immutable: true", "immutable: yes", "write true"),
        (
            "password: hunter2",
            "password: \"***\"",
            "stringData.password: is what is shown in the place of the value",
        ),
    ] {
        let text = CONFIGS.replacen(from, to, 1);
        let errors = refused(&text);
        assert!(errors.contains(expected), "{to}: {errors}");
    }
    let twice = format!("{CONFIGS}---\n{}", CONFIGS.split("---").next().unwrap());
    assert!(refused(&twice).contains("config shop/settings is declared twice"));
}

#[test]
fn what_comes_from_configs_is_written_as_it_was_read() {
    let lines = "        envFrom:\n        - { prefix: A_, configMapRef: { name: settings } }\n        env:\n        - { name: X, valueFrom: { secretKeyRef: { name: login, key: user, optional: true } } }\n        - { name: D, valueFrom: { fieldRef: { fieldPath: spec.nodeName } } }\n        - { name: Z, value: \"$(X) $$(D)\" }\n      volumes:\n      - { name: a, secret: { secretName: login, defaultMode: 0400, items: [{ key: user, path: a/b }] } }\n      - { name: b, emptyDir: { medium: Memory, sizeLimit: 1Mi } }\n      - { name: c, persistentVolumeClaim: { claimName: c, sizeLimit: 1Gi } }";
    let text = with_container(lines);
    let app = one(&text);
    assert_eq!(one(&to_yaml(&app)), app);
    for (from, to, expected) in [
        ("path: a/b", "path: ../b", "is not a relative path"),
        ("defaultMode: 0400", "defaultMode: 0999", "is no mode"),
        ("medium: Memory", "medium: Disk", "is no medium"),
        ("spec.nodeName", "spec.nodename", "there is no field"),
        (
            "key: user, optional",
            "key: a/b, optional",
            "is not a name of a file",
        ),
    ] {
        let errors = refused(&text.replacen(from, to, 1));
        assert!(errors.contains(expected), "{to}: {errors}");
    }
}
