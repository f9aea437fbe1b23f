//! What the machine calls: pods come and go, the agent starts again, damage is
//! mended without being asked.

use crate::world::*;
use skerry_agent::network::attach::{Attachment, PodNetworks, Shape};
use skerry_agent::network::dns::Resolvers;
use skerry_agent::network::{PodId, Pool};
use skerry_wire::pod::{Port, Protocol};
use skerry_wire::{AppRef, Digest, RevisionId};
use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

fn open(dir: &Path) -> PodNetworks {
    let pool = Pool::new(Pool::DEFAULT_RANGE, "attached").unwrap();
    let resolvers = Resolvers {
        file: dir.join("resolv.conf"),
        ..Resolvers::default()
    };
    PodNetworks::open(dir, pool, resolvers).unwrap()
}

fn attachment(app: &str, host_port: Option<u16>) -> Attachment {
    Attachment {
        app: AppRef {
            namespace: "default".parse().unwrap(),
            name: app.parse().unwrap(),
        },
        ports: vec![Port {
            name: None,
            container_port: 80,
            host_port,
            host_ip: None,
            protocol: Protocol::Tcp,
        }],
        revision: RevisionId(Digest::of(b"revision")),
        containers: [].into(),
        shape: ready(true),
    }
}

fn ready(ready: bool) -> Shape {
    Shape {
        ready,
        ..Shape::default()
    }
}

fn id(text: &str) -> PodId {
    PodId(text.into())
}

#[test]
fn pods_come_and_go_and_an_agent_that_starts_again_finds_them() {
    on_a_device(|device| {
        let dir = tempfile::tempdir().unwrap();
        let before = settled_picture();
        let (web, asker) = (Space::new(), Space::new());
        web.serve_tcp(80, "web");
        smol::block_on(async {
            let networks = open(dir.path());
            networks.resume([].into()).await.unwrap();
            let found = networks
                .attach(&id("web"), attachment("web", Some(8080)), web.fd())
                .await
                .unwrap();
            networks
                .attach(&id("asker"), attachment("asker", None), asker.fd())
                .await
                .unwrap();
            let v4 = found.addresses[0].to_string();
            assert!(asker.tcp(&v4, 80).unwrap().starts_with("web "));
            assert!(device.outside.tcp(DEVICE_V4, 8080).is_ok());
            // Somebody else wants the same port: refused with its reason, and
            // nobody else has a part in it.
            let other = Space::new();
            let refused = networks
                .attach(&id("other"), attachment("other", Some(8080)), other.fd())
                .await
                .unwrap_err()
                .to_string();
            assert!(
                refused.contains("8080") && refused.contains("web"),
                "{refused}"
            );
            networks.detach(&id("other")).await.unwrap();
            let running = settled_picture();
            // The agent ends, and nothing with it.
            drop(networks);
            assert_eq!(settled_picture(), running);
            assert!(device.outside.tcp(DEVICE_V4, 8080).is_ok());
            // It starts again: of two pods one has ended meanwhile.
            let networks = open(dir.path());
            let kept: Vec<_> = networks.kept().await.into_keys().collect();
            assert_eq!(kept, [id("asker"), id("web")]);
            networks
                .resume([(id("web"), web.fd()), (id("asker"), asker.fd())].into())
                .await
                .unwrap();
            assert_eq!(settled_picture(), running);
            drop(networks);
            let networks = open(dir.path());
            networks
                .resume([(id("web"), web.fd())].into())
                .await
                .unwrap();
            assert!(device.outside.tcp(DEVICE_V4, 8080).is_ok());
            let kept: Vec<_> = networks.kept().await.into_keys().collect();
            assert_eq!(kept, [id("web")]);
            networks.detach(&id("web")).await.unwrap();
            networks.detach(&id("web")).await.unwrap();
            assert_eq!(settled_picture(), before);
        });
    });
}

#[test]
fn damage_is_mended_unasked_and_names_are_answered() {
    on_a_device(|device| {
        let dir = tempfile::tempdir().unwrap();
        let (web, asker) = (Space::new(), Space::new());
        web.serve_tcp(80, "web");
        smol::block_on(async {
            let networks = open(dir.path());
            let work = async {
                networks.resume([].into()).await.unwrap();
                let web_at = networks
                    .attach(&id("web"), attachment("web", Some(8080)), web.fd())
                    .await
                    .unwrap();
                networks
                    .attach(&id("asker"), attachment("asker", None), asker.fd())
                    .await
                    .unwrap();
                assert_eq!(lookup(&asker, web_at.names).await, 1);
                for (is_ready, count) in [(false, 0), (true, 1)] {
                    let shapes = [(id("web"), ready(is_ready)), (id("asker"), ready(true))];
                    networks.shape(shapes.into());
                    let end = std::time::Instant::now() + LONG;
                    while lookup(&asker, web_at.names).await != count {
                        assert!(std::time::Instant::now() < end, "not ready: {is_ready}");
                    }
                }
                let bridge =
                    "$(ip -o link show type bridge | sed 's/^[0-9]*: //; s/:.*//' | grep ^sk)";
                for damage in [
                    "nft flush ruleset".to_string(),
                    format!("ip link del {bridge}"),
                    format!("ip addr flush dev {bridge}"),
                    "sysctl -qw net.ipv4.ip_forward=0".into(),
                ] {
                    sh(&damage);
                    let outside = device.outside.clone();
                    smol::unblock(move || {
                        until(|| outside.run(|| ask_soon(DEVICE_V4, 8080)));
                    })
                    .await;
                    assert_eq!(lookup(&asker, web_at.names).await, 1, "{damage}");
                }
            };
            let told = |troubles: &[String]| println!("told: {troubles:?}");
            smol::future::or(work, networks.run(told)).await;
        });
    });
}

fn ask_soon(to: &str, port: u16) -> bool {
    let to = std::net::SocketAddr::new(to.parse().unwrap(), port);
    ask_tcp(to, SHORT).is_ok()
}

/// How many addresses `web` has.
async fn lookup(from: &Space, server: std::net::IpAddr) -> usize {
    let from = from.clone();
    smol::unblock(move || {
        from.run(move || {
            let mut query = simple_dns::Packet::new_query(1);
            query.questions.push(simple_dns::Question::new(
                simple_dns::Name::new("web").unwrap(),
                simple_dns::TYPE::A.into(),
                simple_dns::CLASS::IN.into(),
                false,
            ));
            let query = query.build_bytes_vec().unwrap();
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect((server, 53)).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(1)))
                .unwrap();
            let mut buffer = [0; 512];
            let end = std::time::Instant::now() + LONG;
            loop {
                assert!(std::time::Instant::now() < end, "no answer from {server}");
                if socket.send(&query).is_err() {
                    continue;
                }
                if let Ok(len) = socket.recv(&mut buffer) {
                    let answer = simple_dns::Packet::parse(&buffer[..len]).unwrap();
                    return answer.answers.len();
                }
            }
        })
    })
    .await
}

#[test]
fn pods_that_come_together_are_attached_together() {
    const PODS: usize = 60;
    on_a_device(|_device| {
        let dir = tempfile::tempdir().unwrap();
        let before = settled_picture();
        let spaces: Vec<Space> = (0..PODS).map(|_| Space::new()).collect();
        smol::block_on(async {
            let networks = open(dir.path());
            let (networks, attachment) = (&networks, &attachment);
            let begin = std::time::Instant::now();
            let all = spaces.iter().enumerate().map(|(index, space)| async move {
                let name = format!("app{index}");
                let pod = attachment(&name, None);
                let attached = networks.attach(&id(&name), pod, space.fd()).await;
                attached.unwrap().addresses[0]
            });
            let all: std::collections::BTreeSet<_> = join(all).await.into_iter().collect();
            println!("{PODS} pods in {:?}", begin.elapsed());
            assert_eq!(all.len(), PODS);
            for index in 0..PODS {
                networks.detach(&id(&format!("app{index}"))).await.unwrap();
            }
            assert_eq!(settled_picture(), before);
        });
    });
}

/// Runs all of them at the same time.
async fn join<T: 'static>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let executor = smol::LocalExecutor::new();
    let tasks: Vec<_> = all.map(|one| executor.spawn(one)).collect();
    executor
        .run(async {
            let mut done = Vec::new();
            for task in tasks {
                done.push(task.await);
            }
            done
        })
        .await
}
