//! What is read, and how it is written again.

mod config;
mod laws;
mod refused;

use super::*;
use skerry_wire::RestartPolicy;
use skerry_wire::policy::{self, Grant};

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
        ("  rollout: {}\n", "spec.placement chooses fewer"),
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
