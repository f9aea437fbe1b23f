//! What is read, what is refused and in which words, and the laws: what is
//! written is read again, and no text makes the reader panic or run away.

use super::*;
use proptest::prelude::*;
use skerry_wire::desired::{Awaited, Dependency};
use skerry_wire::pod::{FsGroupChange, Profile, Security};
use skerry_wire::policy::{self, Grant, UpdatePolicy};
use skerry_wire::probe::{Check, Hook, HttpGet, Probe};
use skerry_wire::{
    AppPolicy, AppRef, ContainerSpec, EnvVar, PodSpec, Resources, RestartPolicy, Selector, Volume,
    VolumeMount, VolumeSource,
};
use std::collections::BTreeSet;

const FULL: &str = r#"
apiVersion: skerry/v1
kind: App
metadata: { name: web, namespace: shop }
spec:
  placement:
    selector: "site=berlin,role in (gateway,kiosk)"
    matchLabels: { tier: front }
    matchExpressions:
    - { key: gpu, operator: DoesNotExist }
    - key: zone
      operator: NotIn
      values: [a, b]
  template:
    spec:
      hostNetwork: true
      hostname: kiosk
      restartPolicy: OnFailure
      terminationGracePeriodSeconds: 5
      securityContext: { runAsUser: 1000, runAsNonRoot: true }
      containers:
      - name: web
        image: nginx:1.27
        command: ["nginx", "-g", "daemon off;"]
        args:
        - |
          one
          two
        workingDir: /srv/
        env:
        - { name: PORT, value: "8080" }
        - { name: URL, value: "http://localhost:$(PORT)/" }
        - { name: EMPTY }
        resources: { limits: { cpu: 0.5, memory: 64Mi, pids: 32 } }
        volumeMounts:
        - { name: data, mountPath: /data, readOnly: true }
        - { name: tmp, mountPath: /tmp }
        securityContext: { runAsGroup: 100, readOnlyRootFilesystem: true }
        logging: { persist: true, maxBytes: 1Mi }
      volumes:
      - name: data
        persistentVolumeClaim: { claimName: web-data }
      - name: host
        hostPath: { path: /srv, type: DirectoryOrCreate }
      - name: tmp
        emptyDir: {}
"#;

fn one(text: &str) -> App {
    match parse("app.yaml", text) {
        Ok(mut objects) => {
            assert_eq!(objects.len(), 1);
            let Object::App(app) = objects.remove(0) else {
                panic!("not an app")
            };
            app
        }
        Err(errors) => panic!("{}", shown(&errors)),
    }
}

fn shown(errors: &[ManifestError]) -> String {
    errors.iter().map(|e| format!("{e}\n")).collect()
}

fn refused(text: &str) -> String {
    match parse("app.yaml", text) {
        Ok(objects) => panic!("was accepted: {objects:?}"),
        Err(errors) => {
            for error in &errors {
                assert!(!error.remedy.is_empty(), "{error}");
                assert!(!error.message.is_empty());
            }
            shown(&errors)
        }
    }
}

/// A sound app whose container has these further lines, at their indentation.
fn with_container(lines: &str) -> String {
    format!(
        "apiVersion: skerry/v1\nkind: App\nmetadata:\n  name: web\nspec:\n  template:\n    spec:\n      containers:\n      - name: web\n        image: nginx\n{lines}\n"
    )
}

#[test]
fn every_field_is_read() {
    let app = one(FULL);
    assert_eq!(app.app.to_string(), "shop/web");
    assert_eq!(
        app.placement.to_string(),
        "site=berlin,role in (gateway,kiosk),tier=front,!gpu,zone notin (a,b)"
    );
    let pod = &app.pod;
    assert_eq!(pod.hostname.as_deref(), Some("kiosk"));
    assert_eq!(pod.restart_policy, RestartPolicy::OnFailure);
    assert_eq!(pod.termination_grace_secs, 5);
    assert_eq!(pod.volumes.len(), 3);
    let container = &pod.containers[0];
    assert_eq!(container.command, ["nginx", "-g", "daemon off;"]);
    assert_eq!(container.args, ["one\ntwo\n"]);
    assert_eq!(container.working_dir.as_deref(), Some("/srv"));
    assert_eq!(
        container.env[1].value.text().unwrap(),
        "http://localhost:$(PORT)/"
    );
    assert_eq!(container.env[2].value.text().unwrap(), "");
    assert_eq!(container.resources.cpu_millis, Some(500));
    assert_eq!(container.resources.memory_bytes, Some(64 << 20));
    assert_eq!(container.resources.pids, Some(32));
    assert_eq!(container.user.as_deref(), Some("1000:100"));
    assert!(container.read_only_root && container.log_persist);
    assert_eq!(container.log_max_bytes, 1 << 20);
    assert!(container.volume_mounts[0].read_only);
    assert_eq!(one(&to_yaml(&app)), app);
}

#[test]
fn the_canonical_form() {
    assert_eq!(
        to_yaml(&one(FULL)),
        r#"apiVersion: skerry/v1
kind: App
metadata:
  name: web
  namespace: shop
spec:
  placement:
    selector: "site=berlin,role in (gateway,kiosk),tier=front,!gpu,zone notin (a,b)"
  template:
    spec:
      hostNetwork: true
      hostname: kiosk
      restartPolicy: OnFailure
      terminationGracePeriodSeconds: 5
      containers:
      - name: web
        image: nginx:1.27
        command:
        - nginx
        - "-g"
        - "daemon off;"
        args:
        - |
          one
          two
        workingDir: /srv
        env:
        - name: PORT
          value: "8080"
        - name: URL
          value: "http://localhost:$(PORT)/"
        - name: EMPTY
          value: ""
        resources:
          limits:
            cpu: 500m
            memory: 64Mi
            pids: 32
        volumeMounts:
        - name: data
          mountPath: /data
          readOnly: true
        - name: tmp
          mountPath: /tmp
        securityContext:
          runAsUser: 1000
          runAsGroup: 100
          runAsNonRoot: true
          readOnlyRootFilesystem: true
        logging:
          persist: true
          maxBytes: 1Mi
      volumes:
      - name: data
        persistentVolumeClaim:
          claimName: web-data
      - name: host
        hostPath:
          path: /srv
          type: DirectoryOrCreate
      - name: tmp
        emptyDir: {}
"#
    );
}

#[test]
fn json_and_several_documents_are_read() {
    let json = r#"{"apiVersion":"skerry/v1","kind":"App","metadata":{"name":"a"},
      "spec":{"template":{"spec":{"containers":[{"name":"a","image":"b","args":["\u00e9"]}]}}}}"#;
    assert_eq!(one(json).pod.containers[0].args, ["é"]);
    let two = format!(
        "# comment\n---\n{}\n---\n---\n{}...\n",
        with_container(""),
        with_container("").replace("name: web", "name: api")
    );
    assert_eq!(parse("two.yaml", &two).map(|o| o.len()), Ok(2));
    assert_eq!(parse("none.yaml", "# nothing\n---\n"), Ok(vec![]));
    assert_eq!(
        parse("bom.yaml", &format!("\u{feff}{json}")).map(|o| o.len()),
        Ok(1)
    );
}

#[test]
fn all_errors_are_told_at_once_with_their_places() {
    let text = r#"apiVersion: skerry/v1
kind: App
metadata:
  name: Web
  labels: { a: b }
spec:
  replicas: 3
  placement: { selector: "site=(" }
  template:
    spec:
      hostNetwork: false
      restartPolicy: unless-stopped
      containers:
      - name: web
        imagee: nginx
        env:
        - { name: PORT, value: 8080 }
        - name: DEBUG
          value: no
        - name: KEY
          valueFrom: { secretKeyRef: { name: s, key: k } }
        resources: { limits: { cpu: 500m, memory: 64m } , requests: { cpu: 1 } }
        livenessProbe: {periodSeconds: 5}
        volumeMounts:
        - { name: dta, mountPath: data }
      volumes:
      - name: data
        configMap: { name: c }
"#;
    assert_eq!(
        refused(text),
        "\
app.yaml:4:9: metadata.name: app 'Web' may only use a-z, 0-9 and '-', and must start and end with a letter or digit: choose another name, as in web or kiosk-2
app.yaml:5:3: metadata.labels: is not supported: remove it: apps have no labels yet, devices do (skerry label device NAME key=value)
app.yaml:7:3: spec.replicas: is not supported: remove it: an app runs once on every device that spec.placement matches
app.yaml:8:26: spec.placement.selector: in selector 'site=(': '(' is not a label value: use up to 63 letters, digits, '-', '_' and '.': write it as in \"site=berlin,role in (gateway,kiosk),!retired\"
app.yaml:12:22: spec.template.spec.restartPolicy: there is no restart policy 'unless-stopped': write Always
app.yaml:14:9: spec.template.spec.containers[0].image: is missing: name an image, as in nginx:1.27
app.yaml:15:9: spec.template.spec.containers[0].imagee: unknown field: did you mean 'image'?
app.yaml:17:32: spec.template.spec.containers[0].env[0].value: expects text, but YAML reads 8080 as a number: quote it: \"8080\"
app.yaml:19:18: spec.template.spec.containers[0].env[1].value: expects text, but many YAML readers take no for false: quote it: \"no\"
app.yaml:22:51: spec.template.spec.containers[0].resources.limits.memory: 64m means thousandths of a byte: write 64Mi
app.yaml:22:76: spec.template.spec.containers[0].resources.requests.cpu: is more than its limit of 500m: request no more than the limit, or raise that
app.yaml:23:24: spec.template.spec.containers[0].livenessProbe: does not say what to do: write one of exec: { command: [...] }, httpGet: { path: /, port: 8080 } and tcpSocket: { port: 8080 }
app.yaml:25:19: spec.template.spec.containers[0].volumeMounts[0].name: the pod has no volume 'dta': did you mean 'data'?
app.yaml:25:35: spec.template.spec.containers[0].volumeMounts[0].mountPath: 'data' is not an absolute path: start it with '/'
"
    );
}

#[test]
fn traps_of_yaml_are_named() {
    for (lines, expected) in [
        ("        env: [{name: A, value: 012}]", "quote it: \"012\""),
        ("        env: [{name: A, value: 1e3}]", "quote it: \"1e3\""),
        (
            "        env: [{name: A, value: on}]",
            "take on for true: quote it",
        ),
        (
            "        env: [{name: A, value: true}]",
            "as a truth value: quote it",
        ),
        (
            "        env: [{name: A, value: }]",
            "write \"\" for an empty text",
        ),
        ("        env: {A: b}", "write - name: A and value:"),
        ("        env: [A=b]", "write name: A and value: \"b\""),
        (
            "        env: [{name: 1A, value: b}]",
            "'1A' is not a variable's name",
        ),
        (
            "        env: [{name: A=B, value: b}]",
            "is not a variable's name",
        ),
        ("        env: [{name: A}, {name: A}]", "'A' is there twice"),
        ("        command: [sleep, 3600]", "command[1]: expects text"),
        ("        command: sleep 3600", "expects a list of words"),
        ("        args: [\"a\\0b\"]", "has a zero byte"),
        (
            "        image: nginx",
            "'image' is here twice, first in line 10",
        ),
        ("        <<: {}", "merge keys (<<) are not read"),
        ("        ? [a]\n        : b", "cannot be a key"),
        ("        args: !!int \"1\"", "has no meaning here"),
        ("        args: !custom x", "has no meaning here"),
        (
            "        args: &a [*a]",
            "stands inside the value that it repeats",
        ),
        ("        args: [*b]", "this is not valid YAML"),
        ("\tworkingDir: /", "indent with spaces"),
        ("        workingDir: srv", "start it with '/'"),
        ("        workingDir: /srv/../etc", "has '..' in it"),
        (
            "        securityContext: {runAsUser: -1}",
            "expects a whole number",
        ),
        (
            "        securityContext: {runAsUser: 4294967295}",
            "is out of range",
        ),
        (
            "        securityContext: {runAsUser: \"0\"}",
            "remove the quotes: 0",
        ),
        (
            "        securityContext: {runAsUser: 010}",
            "without a leading zero",
        ),
        (
            "        securityContext: {runAsGroup: 1}",
            "write runAsUser as well",
        ),
        (
            "        securityContext: {runAsUser: 0, runAsNonRoot: true}",
            "does not hold",
        ),
        (
            "        securityContext: {runAsUser: root, runAsNonRoot: true}",
            "does not hold",
        ),
        (
            "        securityContext: {readOnlyRootFilesystem: \"true\"}",
            "remove the quotes: true",
        ),
        (
            "        securityContext: {readOnlyRootFilesystem: yes}",
            "write true",
        ),
        (
            "        securityContext: {capabilities: {add: [cap_net_admn]}}",
            "did you mean NET_ADMIN?",
        ),
        (
            "        securityContext: {seccompProfile: {type: Localhost, localhostProfile: x}}",
            "write type: RuntimeDefault",
        ),
        (
            "        securityContext: {appArmorProfile: {type: Localhost}}",
            "needs a name",
        ),
        (
            "        securityContext: {procMount: all}",
            "write Default or Unmasked",
        ),
        (
            "        securityContext: {fsGroup: 7}",
            "move it to the pod's",
        ),
        ("        resources: {limits: {cpu: 1m}}", "is too little"),
        ("        resources: {limits: {pids: 0}}", "is out of range"),
        (
            "        resources: {limits: {pids: 1.5}}",
            "expects a whole number",
        ),
        (
            "        resources: {limits: {nvidia.com/gpu: one}}",
            "expects a whole number",
        ),
        ("        resources: {cpu: 1}", "move it under limits"),
        (
            "        volumeMounts: [{name: x, mountPath: /x}]",
            "declare it in spec.template.spec.volumes",
        ),
        (
            "        ports: [{containerPort: 80, hostPort: 80}]",
            "write network: bridge, so that this port leads to the app",
        ),
        (
            "        logging: {persist: true, maxBytes: 1}",
            "means 1 bytes",
        ),
        (
            "        nonsense: 1",
            "remove it; known here: name, image, env",
        ),
        (
            "      initContainers: [{name: web, image: b}]",
            "two containers named 'web'",
        ),
        (
            "      initContainers: [{name: a, image: b, readinessProbe: {tcpSocket: {port: 1}}}]",
            "has no place in an init container",
        ),
        (
            "      initContainers: [{name: a, image: b, restartPolicy: Never}]",
            "can only be Always here",
        ),
        ("  dependsOn: [{name: web}]", "would wait for itself"),
        (
            "  dependsOn: [{name: a, condition: service_healthy}]",
            "write Healthy",
        ),
        (
            "  dependsOn: [{name: a}, {name: a, namespace: default}]",
            "is there twice",
        ),
        (
            "        restartPolicy: Always",
            "only an init container has its own",
        ),
        (
            "        livenessProbe: {exec: {command: [a]}, tcpSocket: {port: 1}}",
            "more than one thing to do",
        ),
        (
            "        livenessProbe: {exec: {command: ls /}}",
            "expects a list of words",
        ),
        (
            "        livenessProbe: {httpGet: {port: http}}",
            "write the port's number",
        ),
        (
            "        livenessProbe: {httpGet: {port: 1, scheme: HTTPS}}",
            "speak HTTP without TLS",
        ),
        (
            "        livenessProbe: {httpGet: {port: 1, path: x}}",
            "start it with '/'",
        ),
        (
            "        livenessProbe: {tcpSocket: {port: 1}, successThreshold: 2}",
            "has to be 1 here",
        ),
        (
            "        livenessProbe: {grpc: {port: 1}}",
            "use tcpSocket, or exec",
        ),
        (
            "        readinessProbe: {tcpSocket: {port: 1}, terminationGracePeriodSeconds: 1}",
            "a readiness probe stops nothing",
        ),
        (
            "        readinessProbe: {tcpSocket: {port: 0}}",
            "0 is out of range",
        ),
        (
            "        lifecycle: {preStop: {tcpSocket: {port: 1}}}",
            "use exec or httpGet",
        ),
        ("        lifecycle: {stopSignal: TERM}", "write SIGTERM"),
        (
            "        lifecycle: {postStart: {sleep: {seconds: 0}}}",
            "0 is out of range",
        ),
        (
            "      volumes: [{name: a}]",
            "does not say what the volume is",
        ),
        (
            "      volumes: [{name: a, emptyDir: {}, hostPath: {path: /}}]",
            "several volumes in one",
        ),
        (
            "      volumes: [{name: ../a, emptyDir: {}}]",
            "is not a volume's name",
        ),
        (
            "      volumes: [{name: a, persistentVolumeClaim: {claimName: ../b}}]",
            "is not a volume's name",
        ),
        (
            "      volumes: [{name: a, emptyDir: {}}, {name: a, emptyDir: {}}]",
            "two volumes named 'a'",
        ),
        (
            "      volumes: [{name: a, hostPath: {path: /x, type: Fifo}}]",
            "'Fifo' is not supported",
        ),
        ("      hostname: Kiosk 7", "is not a host name"),
        (
            "      terminationGracePeriodSeconds: \"30\"",
            "remove the quotes: 30",
        ),
        (
            "      terminationGracePeriodSeconds: 30s",
            "expects a whole number, not '30s'",
        ),
        (
            "      - {name: web, image: b}",
            "two containers named 'web'",
        ),
        (
            "      - {name: b, image: 'a b'}",
            "it has white space in it",
        ),
        (
            "      - nginx",
            "expects fields (key: value), but there is a single value",
        ),
    ] {
        let errors = refused(&with_container(lines));
        assert!(errors.contains(expected), "{lines}\n{errors}");
    }
}

#[test]
fn mounts_cannot_shadow_or_escape() {
    let volume = "      volumes: [{name: a, emptyDir: {}}]";
    for (mounts, expected) in [
        ("{name: a, mountPath: /}", "the root file system"),
        ("{name: a, mountPath: /proc/1}", "inside /proc"),
        ("{name: a, mountPath: /x/../../y}", "has '..' in it"),
        (
            "{name: a, mountPath: /x, subPath: /etc}",
            "'/etc' is an absolute path",
        ),
        (
            "{name: a, mountPath: /x, subPath: a/../..}",
            "'a/../..' has '..' in it",
        ),
        ("{name: a, mountPath: /x, subPath: ./}", "all of the volume"),
        (
            "{name: a, mountPath: /x, subPathExpr: $(A)}",
            "write subPath",
        ),
        (
            "{name: a, mountPath: /x}, {name: a, mountPath: /x/}",
            "two volumes are mounted at /x",
        ),
    ] {
        let lines = format!("        volumeMounts: [{mounts}]\n{volume}");
        let errors = refused(&with_container(&lines));
        assert!(errors.contains(expected), "{mounts}\n{errors}");
    }
}

#[test]
fn other_kinds_name_what_to_write() {
    for (head, expected) in [
        (
            "apiVersion: apps/v1\nkind: Deployment",
            "'Deployment' of 'apps/v1' is not accepted: write an App",
        ),
        (
            "apiVersion: v1\nkind: Pod",
            "put the pod's spec under spec.template.spec",
        ),
        (
            "apiVersion: v1\nkind: Service",
            "write spec.services in the App",
        ),
        ("apiVersion: skerry/v2\nkind: App", "upgrade the hub"),
        (
            "apiVersion: skerry/v1\nkind: Sekret",
            "there is no kind 'Sekret'",
        ),
        ("apiVersion: skerry/v1\nkind: app", "write kind: App"),
        ("apiVersion: skerry/v1", "kind: is missing"),
        ("kind: App", "apiVersion: is missing"),
        (
            "services: { web: { image: nginx } }",
            "compose files are not read yet",
        ),
        ("just text", "expects fields"),
        ("- a\n- b", "expects fields"),
    ] {
        let errors = refused(head);
        assert!(errors.contains(expected), "{head}\n{errors}");
    }
}

#[test]
fn an_app_is_declared_once() {
    let text = with_container("");
    let twice = refused(&format!("{text}---\n{text}"));
    assert_eq!(
        twice,
        "app.yaml:13:1: metadata: app default/web is declared twice, first in line 1: give one of them another name or namespace, or remove it\n"
    );
    let file = |name: &str, text: &str| File {
        name: name.into(),
        text: text.into(),
    };
    let errors = parse_files(&[file("a.yaml", &text), file("b.yaml", &text)]).unwrap_err();
    assert!(shown(&errors).starts_with(
        "b.yaml:1:1: metadata: app default/web is declared twice, first in a.yaml:1:"
    ));
    let other = text.replace("name: web\nspec", "name: api\nspec");
    let both = parse_files(&[
        file("a.yaml", &text),
        file("b.yaml", &other),
        file("c", "#"),
    ]);
    assert_eq!(both.map(|o| o.len()), Ok(2));
    assert!(shown(&parse_files(&[file("a.yaml", "")]).unwrap_err()).contains("no object in it"));
    assert!(parse_files(&[]).is_err());
}

#[test]
fn sizes_are_bounded() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(refused(&deep).contains("nested more than 32 deep"));
    let deep = format!("a: {}", "{a: ".repeat(50_000));
    assert!(refused(&deep).contains("nested more than 32 deep"));
    let huge = " ".repeat(MAX_FILE_BYTES + 1);
    assert!(refused(&huge).contains("split it into several files"));
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..20 {
        let before = format!("*a{},", i - 1).repeat(10);
        bomb.push_str(&format!("a{i}: &a{i} [{}]\n", before.trim_end_matches(',')));
    }
    assert!(refused(&bomb).contains("repeat less by alias"));
    let mut text_bomb = format!("a: &a \"{}\"\nb: [", "x".repeat(500_000));
    text_bomb.push_str(&"*a,".repeat(1000));
    text_bomb.push_str("]\n");
    assert!(refused(&text_bomb).contains("bytes of text"));
    let many = "- x\n".repeat(MAX_FILE_BYTES / 5);
    assert!(refused(&many).contains("more than 100000 values"));
    let value = "x".repeat(60_000);
    let big =
        format!("        env: [{{name: A, value: \"{value}\"}}, {{name: B, value: \"{value}\"}}]");
    assert!(refused(&with_container(&big)).contains("more than 65536"));
    let errors = "        env:\n".to_string() + &"        - {name: 1, value: 2}\n".repeat(500);
    let errors = refused(&with_container(&errors));
    assert_eq!(errors.lines().count(), 51);
    assert!(errors.ends_with("there are 950 more errors: mend these first\n"));
}

#[test]
fn anchors_repeat_values() {
    let text = with_container(
        "        env: &env [{name: A, value: b}]\n      - name: two\n        image: c\n        env: *env",
    );
    let app = one(&text);
    assert_eq!(app.pod.containers[0].env, app.pod.containers[1].env);
}

#[test]
fn what_kubernetes_says_of_an_update_is_understood_and_mistakes_are_told() {
    let with = |fields: &str| {
        format!(
            "apiVersion: skerry/v1\nkind: App\nmetadata: {{name: web}}\nspec:\n{fields}  template: {{spec: {{containers: [{{name: web, image: web}}]}}}}\n"
        )
    };
    let read = one(&with(
        "  strategy: {type: RollingUpdate}\n  minReadySeconds: 5\n  progressDeadlineSeconds: 60\n  hold: {limitSeconds: 90}\n  deviceAPI: [ReportValues, HoldUpdates]\n",
    ));
    let update = &read.policy.update;
    assert_eq!(update.strategy, policy::Strategy::StartThenStop);
    assert_eq!(update.min_ready_secs, 5);
    assert_eq!(update.progress_deadline_secs, Some(60));
    assert_eq!(update.hold_limit_secs, 90);
    assert_eq!(
        read.policy.grants,
        [Grant::HoldUpdates, Grant::ReportValues]
    );
    for (fields, said) in [
        ("  strategy: {type: hand-over}\n", "write StartThenStop"),
        ("  strategy: {type: Blue}\n", "there is no strategy 'Blue'"),
        (
            "  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 1}}\n",
            "one new pod starts beside",
        ),
        ("  strategy: Recreate\n", "expects fields"),
        ("  hold: {limitSeconds: 60}\n", "deviceAPI: [HoldUpdates]"),
        (
            "  deviceAPI: [Everything]\n",
            "ReadDevice, HoldUpdates or ReportValues",
        ),
        ("  deviceAPI: [ReadDevice, ReadDevice]\n", "there twice"),
        ("  confirmSeconds: 1\n", "from 10"),
        (
            "  confirmSeconds: 20\n  minReadySeconds: 30\n",
            "write more than 30",
        ),
        ("  rollout: {}\n", "come in a later release"),
    ] {
        match parse("app.yaml", &with(fields)) {
            Ok(_) => panic!("{fields} was taken"),
            Err(errors) => {
                let text = shown(&errors);
                assert!(text.contains(said), "{fields}: {text}");
            }
        }
    }
}

#[test]
fn sample_apps_are_sound() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/apps");
    let mut count = 0;
    for entry in std::fs::read_dir(dir).expect("configs/apps is there") {
        let path = entry.expect("readable").path();
        let text = std::fs::read_to_string(&path).expect("readable");
        let name = path.display().to_string();
        if let Err(errors) = parse(&name, &text) {
            panic!("{}", shown(&errors));
        }
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn examples_of_the_guide_are_sound() {
    let guide = include_str!("../../../docs/manifest.md");
    let examples: Vec<&str> = guide.split("```yaml\n").skip(1).collect();
    assert!(!examples.is_empty());
    for example in examples {
        let text = example.split("```").next().unwrap_or_default();
        // The others are parts of one.
        if !text.starts_with("apiVersion:") {
            continue;
        }
        match parse("guide", text).as_deref() {
            Ok([Object::App(app)]) => assert_eq!(app.app.to_string(), "default/web"),
            Ok([Object::Config(_)]) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn label() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?"
}

fn path() -> impl Strategy<Value = String> {
    "/[a-zA-Z0-9_ é#:.-]{0,8}[a-z](/[ -.0-~]{0,6}[a-z])?"
}

/// Texts that YAML finds hard, and any other.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,20}",
        "[a-c $():#\n\t|>'\"-]{0,20}",
        any::<String>().prop_map(|s| s.replace('\0', "")),
        prop::sample::select(vec![
            "", "no", "012", "~", "null", "1e3", "---", "- a", "a: b", "a #b", "$(A)", "$$(A)",
            "|", "a\n", "a\n\n", "\na", "a\r\n", "  a\nb", "\u{85}", "\u{feff}", "..."
        ])
        .prop_map(String::from),
    ]
}

fn selector() -> impl Strategy<Value = Selector> {
    let requirement = prop_oneof![
        (label(), label()).prop_map(|(k, v)| format!("{k}={v}")),
        (label(), label(), label()).prop_map(|(k, a, b)| format!("{k} notin ({a},{b})")),
        label().prop_map(|k| format!("!{k}")),
    ];
    prop::collection::vec(requirement, 0..4)
        .prop_map(|all| all.join(",").parse().expect("a selector"))
}

fn http() -> impl Strategy<Value = HttpGet> {
    let host = prop::option::of(prop_oneof![Just("127.0.0.1".to_string()), label()]);
    let url = "/[a-z0-9?=%]{0,8}";
    let headers = prop::collection::vec(("[A-Za-z-]{1,8}", "[ -~]{0,8}"), 0..3);
    (host, 1u16.., url, headers).prop_map(|(host, port, path, headers)| HttpGet {
        host,
        port,
        path,
        headers,
    })
}

fn command() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(text(), 1..4)
}

fn probe(is_readiness: bool) -> impl Strategy<Value = Box<Probe>> {
    let check = prop_oneof![
        command().prop_map(|command| Check::Exec { command }),
        http().prop_map(Check::Http),
        (prop::option::of(label()), 1u16..).prop_map(|(host, port)| Check::Tcp { host, port }),
    ];
    let numbers = (
        0u32..=86_400,
        1u32..=86_400,
        1u32..=3_600,
        1u16..=9,
        1u16..=9,
    );
    (check, numbers, prop::option::of(1u32..=86_400)).prop_map(move |(check, n, grace)| {
        Box::new(Probe {
            initial_delay_secs: n.0,
            period_secs: n.1,
            timeout_secs: n.2,
            success_threshold: if is_readiness { n.3 } else { 1 },
            failure_threshold: n.4,
            termination_grace_secs: grace.filter(|_| !is_readiness),
            ..Probe::new(check)
        })
    })
}

fn hook() -> impl Strategy<Value = Box<Hook>> {
    let hook = prop_oneof![
        command().prop_map(|command| Hook::Exec { command }),
        http().prop_map(Hook::Http),
        (1u32..=86_400).prop_map(|seconds| Hook::Sleep { seconds }),
    ];
    hook.prop_map(Box::new)
}

/// An init container, or a sidecar.
fn init_container() -> impl Strategy<Value = ContainerSpec<String>> {
    (container(Vec::new()), any::<bool>()).prop_map(|(container, sidecar)| {
        let bare = ContainerSpec {
            startup_probe: None,
            liveness_probe: None,
            readiness_probe: None,
            post_start: None,
            pre_stop: None,
            stop_signal: None,
            ..container.clone()
        };
        match sidecar {
            true => ContainerSpec {
                sidecar,
                ..container
            },
            false => bare,
        }
    })
}

fn security() -> impl Strategy<Value = Security> {
    let names = || {
        let names = prop::sample::subsequence(vec!["ALL", "NET_ADMIN", "SYS_TIME"], 0..3);
        names.prop_map(|names| names.into_iter().map(String::from).collect())
    };
    let profile = prop::sample::select(vec![Profile::RuntimeDefault, Profile::Unconfined]);
    let flags = any::<(bool, bool, bool)>();
    (flags, names(), names(), profile, prop::option::of(label())).prop_map(
        |((privileged, escalation, unmasked_proc), add, drop, seccomp, app_armor)| Security {
            privileged,
            allow_privilege_escalation: escalation,
            capabilities_add: add,
            capabilities_drop: drop,
            seccomp,
            app_armor: app_armor.map_or(Profile::RuntimeDefault, Profile::Localhost),
            unmasked_proc,
            run_as_non_root: false,
        },
    )
}

fn container(volumes: Vec<String>) -> impl Strategy<Value = ContainerSpec<String>> {
    let env = prop::collection::btree_map("[A-Z_][A-Z0-9_.-]{0,5}", text(), 0..5);
    let mounts =
        prop::collection::btree_map(path(), (any::<prop::sample::Index>(), any::<bool>()), 0..4);
    let user = prop_oneof![
        "[0-9]{1,6}".prop_map(|n| n.parse::<u32>().expect("digits").to_string()),
        "[a-z_][a-z0-9_-]{0,8}",
        "[a-z]{3,8}:[1-9][0-9]{0,4}",
    ];
    let resources = (
        prop::option::of(10u32..=1_024_000),
        prop::option::of(512u64 << 10..=16 << 40),
        prop::option::of(1u32..=4 << 20),
    );
    let words = || prop::collection::vec(text(), 0..4);
    let rest = (
        prop::option::of(path()),
        prop::option::of(user),
        any::<bool>(),
        any::<bool>(),
        prop_oneof![Just(0u64), 16u64 << 10..=1 << 30],
    );
    let watched = (
        prop::option::of(probe(false)),
        prop::option::of(probe(false)),
        prop::option::of(probe(true)),
        prop::option::of(hook()),
        prop::option::of(hook()),
        prop::option::of(prop::sample::select(vec![1u8, 2, 3, 10, 15, 28])),
    );
    let words = (words(), words());
    let all = (
        label(),
        env,
        mounts,
        resources,
        words,
        rest,
        watched,
        security(),
    );
    all.prop_map(
        move |(
            name,
            env,
            mounts,
            (cpu_millis, memory_bytes, pids),
            words,
            rest,
            watched,
            security,
        )| {
            let (command, args) = words;
            let mounts = mounts.into_iter().filter(|_| !volumes.is_empty());
            let name = name.parse().expect("a label");
            let image = "registry.example:5000/a/b:1".into();
            ContainerSpec {
                command,
                args,
                env: env
                    .into_iter()
                    .map(|(name, value)| EnvVar {
                        name,
                        value: value.into(),
                    })
                    .collect(),
                working_dir: rest.0,
                user: rest.1,
                resources: Resources {
                    cpu_millis,
                    memory_bytes,
                    pids,
                    ..Resources::default()
                },
                volume_mounts: mounts
                    .map(|(mount_path, (index, read_only))| VolumeMount {
                        volume: index.get(&volumes).clone(),
                        sub_path: read_only.then(|| format!("of/{}", index.index(9))),
                        mount_path,
                        read_only,
                    })
                    .collect(),
                read_only_root: rest.2,
                log_persist: rest.3,
                log_max_bytes: rest.4,
                startup_probe: watched.0,
                liveness_probe: watched.1,
                readiness_probe: watched.2,
                post_start: watched.3,
                pre_stop: watched.4,
                stop_signal: watched.5,
                security,
                ..ContainerSpec::new(name, image)
            }
        },
    )
}

fn app() -> impl Strategy<Value = App> {
    let source = prop_oneof![
        label().prop_map(|claim| VolumeSource::Named {
            claim,
            size_limit_bytes: None,
        }),
        (
            path(),
            prop::sample::select(super::pod::HOST_PATH_KINDS.to_vec())
        )
            .prop_map(|(path, (_, kind))| VolumeSource::HostPath { path, kind }),
        Just(VolumeSource::EmptyDir {
            memory: false,
            size_limit_bytes: None,
        }),
    ];
    prop::collection::btree_map(label(), source, 0..4).prop_flat_map(|volumes| {
        let names: Vec<String> = volumes.keys().cloned().collect();
        let volumes: Vec<Volume> = volumes
            .into_iter()
            .map(|(name, source)| Volume { name, source })
            .collect();
        let containers = (
            prop::collection::vec(container(names), 1..3),
            prop::collection::vec(init_container(), 0..2),
        )
            .prop_filter("container names are unique", |(containers, inits)| {
                let all = containers.iter().chain(inits).map(|c| &c.name);
                all.clone().collect::<BTreeSet<_>>().len() == all.count()
            });
        let policy = prop::sample::select(vec![
            RestartPolicy::Always,
            RestartPolicy::OnFailure,
            RestartPolicy::Never,
        ]);
        let condition =
            prop::sample::select(vec![Awaited::Started, Awaited::Healthy, Awaited::Completed]);
        let depends = prop::collection::btree_map((label(), label()), condition, 0..3);
        (
            (label(), label(), selector(), depends, changes()),
            (containers, policy, 0u32..=86_400, prop::option::of(label())),
            Just(volumes),
        )
            .prop_map(
                |((namespace, name, placement, depends, changes), pod, volumes)| App {
                    app: AppRef {
                        namespace: namespace.parse().expect("a label"),
                        name: name.parse().expect("a label"),
                    },
                    placement,
                    policy: AppPolicy {
                        depends_on: depends
                            .into_iter()
                            .filter(|((space, other), _)| (space, other) != (&namespace, &name))
                            .map(|((space, other), condition)| Dependency {
                                app: AppRef {
                                    namespace: space.parse().expect("a label"),
                                    name: other.parse().expect("a label"),
                                },
                                condition,
                            })
                            .collect(),
                        ..changes
                    },
                    pod: PodSpec {
                        volumes,
                        restart_policy: pod.1,
                        termination_grace_secs: pod.2,
                        hostname: pod.3,
                        fs_group: pod.2.checked_rem(7),
                        fs_group_change: match pod.2 % 5 {
                            0 => FsGroupChange::OnRootMismatch,
                            _ => FsGroupChange::Always,
                        },
                        supplemental_groups: vec![pod.2],
                        user_namespace: pod.2 % 2 == 1,
                        host_ipc: pod.2 % 3 == 1,
                        init_containers: pod.0.1,
                        ..PodSpec::new(pod.0.0)
                    },
                },
            )
    })
}

/// How an app is changed, and what it may ask.
fn changes() -> impl Strategy<Value = AppPolicy> {
    let strategy = prop::sample::select(vec![
        policy::Strategy::DownloadThenStop,
        policy::Strategy::Recreate,
        policy::Strategy::StartThenStop,
    ]);
    let grants = prop::sample::subsequence(vec![Grant::ReadDevice, Grant::ReportValues], 0..=2);
    let secs = (0u32..600, 600u32..604_800, 600u32..604_800, 0u32..604_800);
    (strategy, secs, grants, any::<[bool; 2]>()).prop_map(
        |(strategy, (ready, deadline, confirm, hold), mut grants, [late, confirms])| {
            if hold > 0 {
                grants.push(Grant::HoldUpdates);
                grants.sort();
            }
            AppPolicy {
                update: UpdatePolicy {
                    strategy,
                    progress_deadline_secs: late.then_some(deadline),
                    min_ready_secs: ready,
                    confirm_secs: confirms.then_some(confirm),
                    hold_limit_secs: hold,
                },
                grants,
                ..AppPolicy::default()
            }
        },
    )
}

/// Pieces of manifests and of YAML, in any order.
fn garbage() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "apiVersion: skerry/v1\n",
            "kind: App\n",
            "metadata:",
            " {",
            "}",
            "[",
            "]",
            "- ",
            ": ",
            "\n",
            "  ",
            "\t",
            "spec:\n  template:\n    spec:\n",
            "containers:",
            "name: ",
            "&a ",
            "*a",
            "!!str ",
            "|\n",
            ">-\n",
            "\"",
            "'",
            "#",
            "---\n",
            "...\n",
            "? ",
            "<<: ",
            "%TAG ",
            "image: nginx",
            "env",
            "~",
            "\\",
            "\u{feff}",
            "\u{2028}",
            "\r",
            "0x",
            ",",
        ])
        .prop_map(String::from),
        any::<String>(),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(app in app()) {
        let yaml = to_yaml(&app);
        match parse("x", &yaml) {
            Ok(objects) => prop_assert_eq!(objects, vec![Object::App(app)], "{}", yaml),
            Err(errors) => prop_assert!(false, "{}\n{}", yaml, shown(&errors)),
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in garbage()) {
        if let Err(errors) = parse("x", &text) {
            prop_assert!(!errors.is_empty());
            prop_assert!(errors.iter().all(|e| e.line > 0 && e.column > 0 && !e.remedy.is_empty()));
        }
    }

    #[test]
    fn no_damage_to_a_manifest_makes_the_reader_panic(
        at in any::<prop::sample::Index>(),
        piece in garbage(),
        cut in 0usize..20,
    ) {
        let mut at = at.index(FULL.len());
        while !FULL.is_char_boundary(at) { at -= 1; }
        let end = (at + cut).min(FULL.len());
        let damaged = format!("{}{piece}{}", &FULL[..at], &FULL[end..]);
        let _ = parse("x", &damaged);
    }
}

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
