//! What is read of an app's network, what is refused, and that what is written
//! is read again.

use super::*;
use skerry_wire::pod::{Network, Protocol};
use skerry_wire::policy::{Access, EgressRule};
use skerry_wire::probe::Check;

const FULL: &str = r#"
apiVersion: skerry/v1
kind: App
metadata: { name: web }
spec:
  services:
  - name: site
    ports:
    - { port: 80, targetPort: http }
    - { port: 53, targetPort: names }
    - { port: 90 }
  - name: whole
  egress:
    policy: Deny
    rate: 1Mi
    rules:
    - policy: Deny
      to: [{ ipBlock: { cidr: 10.1.0.0/16 } }]
    - to: [{ ipBlock: { cidr: 10.0.0.0/8 } }, { ipBlock: { cidr: "fd00::/8" } }]
      ports: [{ port: 443 }, { protocol: UDP, port: 5000, endPort: 5010 }, { protocol: UDP }]
    - ports: [{ port: 123, protocol: UDP }]
  template:
    spec:
      network: bridge
      hostname: kiosk
      hostAliases: [{ ip: 10.0.0.9, hostnames: [plc, plc.local] }]
      dnsPolicy: None
      dnsConfig:
        nameservers: [9.9.9.9]
        searches: [lan]
        options: [{ name: ndots, value: "2" }, { name: rotate }]
      containers:
      - name: web
        image: nginx
        ports:
        - { name: http, containerPort: 8080, hostPort: 80, hostIP: 192.0.2.1 }
        - { name: names, containerPort: 5353, hostPort: 53, protocol: UDP }
        - { containerPort: 9000 }
        readinessProbe: { httpGet: { port: http } }
        livenessProbe: { tcpSocket: { port: 9000 } }
"#;

fn one(text: &str) -> App {
    let mut objects = parse("app.yaml", text).unwrap_or_else(|errors| panic!("{errors:?}"));
    let Object::App(app) = objects.remove(0) else {
        panic!("not an app")
    };
    app
}

fn refused(text: &str) -> String {
    let errors = parse("app.yaml", text).expect_err(text);
    errors.iter().map(|e| format!("{e}\n")).collect()
}

/// A sound app with these lines under `spec` and under the pod's.
fn with(spec: &str, pod: &str, container: &str) -> String {
    format!(
        "apiVersion: skerry/v1\nkind: App\nmetadata: {{name: web}}\nspec:\n  {spec}\n  template:\n    spec:\n      {pod}\n      containers:\n      - name: web\n        image: nginx\n        {container}\n"
    )
}

#[test]
fn nobody_is_asked_over_a_network_that_the_pod_does_not_have() {
    let words = "reaches nobody: this pod has no network";
    for (field, container) in [
        ("startupProbe", "startupProbe: { tcpSocket: { port: 80 } }"),
        ("livenessProbe", "livenessProbe: { httpGet: { port: 80 } }"),
        (
            "readinessProbe",
            "readinessProbe: { tcpSocket: { port: 80 } }",
        ),
        (
            "lifecycle.postStart",
            "lifecycle: { postStart: { httpGet: { port: 80 } } }",
        ),
        (
            "lifecycle.preStop",
            "lifecycle: { preStop: { httpGet: { port: 80 } } }",
        ),
    ] {
        let errors = refused(&with("", "network: none", container));
        let told = format!("containers[0].{field}: {words}");
        assert!(errors.contains(&told), "{errors}");
        assert!(errors.contains("app.yaml:12:"), "{errors}");
        one(&with("", "network: bridge", container));
    }
    // These need none, or say whom they ask.
    for container in [
        "readinessProbe: { exec: { command: [a] } }",
        "readinessProbe: { tcpSocket: { host: 192.0.2.1, port: 80 } }",
        "lifecycle: { preStop: { sleep: { seconds: 1 } } }",
    ] {
        one(&with("", "network: none", container));
    }
}

#[test]
fn every_field_is_read_and_written() {
    let app = one(FULL);
    let pod = &app.pod;
    assert_eq!(pod.network, Network::Bridge);
    assert_eq!(pod.host_aliases[0].hostnames, ["plc", "plc.local"]);
    let dns = pod.dns.as_ref().unwrap();
    assert_eq!(dns.options, ["ndots:2", "rotate"]);
    assert_eq!(dns.searches, ["lan"]);
    let container = &pod.containers[0];
    assert_eq!(container.ports[0].host_port, Some(80));
    assert_eq!(container.ports[1].protocol, Protocol::Udp);
    let readiness = container.readiness_probe.as_ref().unwrap();
    assert!(matches!(&readiness.check, Check::Http(get) if get.port == 8080));
    let site = &app.policy.services[0];
    let ports = site
        .ports
        .iter()
        .map(|p| (p.port, p.target_port, p.protocol));
    assert_eq!(
        ports.collect::<Vec<_>>(),
        [
            (80, 8080, Protocol::Tcp),
            (53, 5353, Protocol::Udp),
            (90, 90, Protocol::Tcp)
        ]
    );
    assert_eq!(app.policy.services[1].ports, []);
    let egress = app.policy.egress.as_ref().unwrap();
    assert_eq!(egress.otherwise, Access::Deny);
    assert_eq!(egress.bytes_per_second, Some(1 << 20));
    assert_eq!(egress.rules.len(), 1 + 2 * 3 + 1);
    assert_eq!(
        egress.rules[0],
        EgressRule {
            to: Some(("10.1.0.0".parse().unwrap(), 16)),
            ports: None,
            access: Access::Deny,
        }
    );
    assert_eq!(
        egress.rules[5],
        EgressRule {
            to: Some(("fd00::".parse().unwrap(), 8)),
            ports: Some((Protocol::Udp, 5000, 5010)),
            access: Access::Allow,
        }
    );
    assert_eq!(one(&to_yaml(&app)), app, "{}", to_yaml(&app));
}

#[test]
fn networks_by_either_name() {
    for (written, network) in [
        ("", Network::Host),
        ("hostNetwork: true", Network::Host),
        ("hostNetwork: false", Network::Bridge),
        ("network: host", Network::Host),
        ("network: none", Network::None),
    ] {
        let app = one(&with("", written, ""));
        assert_eq!(app.pod.network, network, "{written}");
        assert_eq!(one(&to_yaml(&app)), app);
    }
    let rate = one(&with("egress: { rate: 64Ki }", "network: bridge", ""));
    assert_eq!(rate.policy.egress.unwrap().otherwise, Access::Allow);
    let rules = one(&with("egress: { rules: [] }", "network: bridge", ""));
    assert_eq!(rules.policy.egress.unwrap().otherwise, Access::Deny);
}

#[test]
fn what_is_wrong_is_told_with_its_remedy() {
    let bridge = "network: bridge";
    for (spec, pod, container, expected) in [
        ("", "network: nat", "", "host (the device's own), bridge"),
        (
            "",
            "{network: bridge, hostNetwork: true}",
            "",
            "remove one of the two",
        ),
        (
            "",
            "hostNetwork: true",
            "ports: [{containerPort: 80, hostPort: 81}]",
            "write 80, remove it, or write network: bridge",
        ),
        (
            "",
            "network: none",
            "ports: [{containerPort: 80, hostPort: 80}]",
            "leads nowhere",
        ),
        (
            "",
            "",
            "ports: [{containerPort: 80, hostPort: 80}]",
            "write network: bridge, so that",
        ),
        (
            "",
            bridge,
            "ports: [\"8080:80\"]",
            "write hostPort: 8080 and containerPort: 80",
        ),
        (
            "",
            bridge,
            "ports: [{containerPort: 80, hostPort: 80}, {containerPort: 81, hostPort: 80}]",
            "ports[1].hostPort: the device's port 80 is there twice",
        ),
        (
            "",
            bridge,
            "ports: [{containerPort: 80, hostPort: 80, hostIP: 10.0.0.1}, {containerPort: 81, hostPort: 80, hostIP: 0.0.0.0}]",
            "is there twice",
        ),
        (
            "",
            bridge,
            "ports: [{containerPort: 80, name: a}, {containerPort: 81, name: a}]",
            "two ports named 'a'",
        ),
        (
            "",
            bridge,
            "ports: [{containerPort: 80, hostIP: 10.0.0.1}]",
            "means nothing without hostPort",
        ),
        (
            "",
            bridge,
            "ports: [{containerPort: 80, name: Http}]",
            "not a port's name",
        ),
        (
            "",
            bridge,
            "ports: [{containerPort: 80, protocol: tcp}]",
            "write TCP or UDP",
        ),
        ("", bridge, "ports: [{containerPort: 0}]", "is out of range"),
        (
            "",
            bridge,
            "readinessProbe: {tcpSocket: {port: http}}",
            "give it a name under the container's ports",
        ),
        ("", "dnsPolicy: None", "", "needs name servers"),
        (
            "",
            "{network: bridge, dnsPolicy: Default}",
            "",
            "write None and dnsConfig",
        ),
        (
            "",
            "hostAliases: [{ip: plc, hostnames: [a]}]",
            "",
            "is not an address",
        ),
        (
            "services: [{name: a}]",
            "",
            "",
            "write network: bridge in spec.template.spec",
        ),
        (
            "services: [{name: a}, {name: a}]",
            bridge,
            "",
            "two services named 'a'",
        ),
        (
            "services: [{name: a, ports: [{port: 1}, {port: 1}]}]",
            bridge,
            "",
            "port 1 is there twice",
        ),
        (
            "services: [{name: a, ports: [{port: 1, targetPort: x}]}]",
            bridge,
            "",
            "neither a number nor the name",
        ),
        (
            "services: [{name: a, selector: {app: a}}]",
            bridge,
            "",
            "declare its name",
        ),
        ("egress: {policy: Deny}", "", "", "write network: bridge"),
        ("egress: {rate: 10}", bridge, "", "add a unit"),
        (
            "egress: {rules: [{to: [{ipBlock: {cidr: 10.0.0.1/8}}]}]}",
            bridge,
            "",
            "write 10.0.0.0/8, or 10.0.0.1/32",
        ),
        (
            "egress: {rules: [{to: [{ipBlock: {cidr: 10.0.0.1}}]}]}",
            bridge,
            "",
            "write 10.0.0.1/32",
        ),
        (
            "egress: {rules: [{to: [{ipBlock: {cidr: 10.0.0.0/40}}]}]}",
            bridge,
            "",
            "is not a range",
        ),
        (
            "egress: {rules: [{to: [{podSelector: {}}]}]}",
            bridge,
            "",
            "name a range of addresses",
        ),
        (
            "egress: {rules: [{ports: [{port: 9, endPort: 8}]}]}",
            bridge,
            "",
            "swap them",
        ),
        (
            "egress: {rules: [{ports: [{endPort: 8}]}]}",
            bridge,
            "",
            "write port for the first one",
        ),
    ] {
        // One pod's fields may be given as a mapping on one line.
        let pod = pod.trim_start_matches('{').trim_end_matches('}');
        let pod = match pod.starts_with("hostAliases") {
            true => "hostAliases: [{ip: plc, hostnames: [a]}]".to_owned(),
            false => pod.replace(", ", "\n      "),
        };
        let said = refused(&with(spec, &pod, container));
        assert!(said.contains(expected), "{spec} {pod} {container}\n{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn objects_of_kubernetes_are_pointed_to_their_place() {
    for (kind, expected) in [
        ("Service", "spec.services"),
        ("NetworkPolicy", "spec.egress"),
        ("Ingress", "hostPort"),
    ] {
        let said = refused(&format!("apiVersion: v1\nkind: {kind}\n"));
        assert!(said.contains(expected), "{said}");
    }
}
