//! What is refused, and in which words.

use super::*;

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
            "{name: a, mountPath: /x, subPath: a, subPathExpr: $(A)}",
            "keep one of subPath and subPathExpr",
        ),
        (
            "{name: a, mountPath: /x, subPathExpr: $(A)/../b}",
            "'$(A)/../b' has '..' in it",
        ),
        (
            "{name: a, mountPath: /x, subPathExpr: /$(A)}",
            "'/$(A)' is an absolute path",
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
