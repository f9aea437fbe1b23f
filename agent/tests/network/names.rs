//! Names on the bridge.

use crate::world::*;
use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Name, Packet, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE};
use skerry_agent::network::dns::{Names, Resolvers, Responder};
use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream, UdpSocket};
use std::rc::Rc;
use std::time::Duration;

fn query(name: &str, kind: TYPE) -> Vec<u8> {
    let mut query = Packet::new_query(4711);
    let name = Name::new(name).unwrap();
    query.questions.push(Question::new(
        name,
        QTYPE::TYPE(kind),
        QCLASS::CLASS(CLASS::IN),
        false,
    ));
    query.build_bytes_vec().unwrap()
}

fn read(answer: &[u8]) -> (RCODE, Vec<IpAddr>) {
    let packet = Packet::parse(answer).unwrap();
    assert_eq!(packet.id(), 4711);
    let addresses = packet
        .answers
        .iter()
        .filter_map(|record| match &record.rdata {
            RData::A(a) => Some(IpAddr::V4(a.address.into())),
            RData::AAAA(a) => Some(IpAddr::V6(a.address.into())),
            _ => None,
        });
    (packet.rcode(), addresses.collect())
}

fn udp(server: IpAddr, query: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect((server, 53)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(6)))
        .unwrap();
    let mut buffer = [0; 4096];
    for _ in 0..5 {
        socket.send(query).unwrap();
        if let Ok(len) = socket.recv(&mut buffer) {
            return buffer[..len].to_vec();
        }
    }
    panic!("{server} does not answer");
}

fn tcp(server: IpAddr, query: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect((server, 53)).unwrap();
    stream
        .write_all(&(query.len() as u16).to_be_bytes())
        .unwrap();
    stream.write_all(query).unwrap();
    let mut len = [0; 2];
    stream.read_exact(&mut len).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut answer).unwrap();
    answer
}

/// A resolver outside: everything is at 203.0.113.1, and `long.example` has
/// more addresses than a datagram takes.
fn resolver(query: &[u8], datagram: bool) -> Vec<u8> {
    let query = Packet::parse(query).unwrap();
    let name = query.questions[0].qname.clone();
    let mut answer = Packet::new_reply(query.id());
    answer.questions = query.questions.clone();
    let count = if name.to_string() == "long.example" {
        100
    } else {
        1
    };
    if count > 1 && datagram {
        answer.set_flags(simple_dns::PacketFlag::TRUNCATION);
        return answer.build_bytes_vec().unwrap();
    }
    for n in 1..=count {
        let data = RData::A(A::from(Ipv4Addr::new(203, 0, 113, n)));
        answer
            .answers
            .push(ResourceRecord::new(name.clone(), CLASS::IN, 60, data));
    }
    answer.build_bytes_vec_compressed().unwrap()
}

fn serve_outside(device: &Device) {
    let (datagrams, streams) = device.outside.run(|| {
        let datagrams = UdpSocket::bind((OUTSIDE_V4, 53)).unwrap();
        let streams = std::net::TcpListener::bind((OUTSIDE_V4, 53)).unwrap();
        (datagrams, streams)
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((len, from)) = datagrams.recv_from(&mut buffer) {
            datagrams
                .send_to(&resolver(&buffer[..len], true), from)
                .ok();
        }
    });
    std::thread::spawn(move || {
        for stream in streams.incoming() {
            let mut stream = stream.unwrap();
            let mut len = [0; 2];
            if stream.read_exact(&mut len).is_err() {
                continue;
            }
            let mut query = vec![0; usize::from(u16::from_be_bytes(len))];
            stream.read_exact(&mut query).unwrap();
            let answer = resolver(&query, false);
            stream
                .write_all(&(answer.len() as u16).to_be_bytes())
                .unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
}

#[test]
fn pods_find_apps_services_and_everything_else() {
    on_a_device(|mut device| {
        let asker = device.pod("shop/asker");
        device.pod("shop/web/1");
        device.pod("shop/web/2");
        device.pod("shop/idle");
        device.wanted_pod("shop/idle").ready = false;
        device.service("shop", "front", &["shop/web/1", "shop/web/2"]);
        let layout = device.settle().layout;
        let network = layout.networks.values().next().unwrap();
        let gateway = IpAddr::V4(network.gateway4);
        let namespace = "shop".parse().unwrap();
        let names = Rc::new(RefCell::new(Names::of(&namespace, &device.wanted, &layout)));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        std::fs::write(
            &file,
            format!("# by hand\nnameserver {gateway}\nnameserver {OUTSIDE_V4}\n"),
        )
        .unwrap();
        serve_outside(&device);
        let resolvers = Resolvers {
            file: file.clone(),
            ..Resolvers::default()
        };
        let (web4, _) = device.addresses("shop/web/1");
        let executor = smol::LocalExecutor::new();
        let (answered, answers) = smol::channel::bounded(1);
        let from_pod = move |question: Vec<u8>, by_tcp: bool| {
            let (asker, answered) = (asker.clone(), answered.clone());
            std::thread::spawn(move || {
                let answer = asker.run(move || match by_tcp {
                    true => tcp(gateway, &question),
                    false => udp(gateway, &question),
                });
                answered.send_blocking(answer).unwrap();
            });
        };
        smol::block_on(executor.run(async {
            let responder = Responder::bind(gateway, names.clone(), resolvers)
                .await
                .unwrap();
            let _running = executor.spawn(responder.run());
            for by_tcp in [false, true] {
                let ask = async |name: &str, kind| {
                    from_pod(query(name, kind), by_tcp);
                    read(&answers.recv().await.unwrap())
                };
                let (code, found) = ask("web", TYPE::A).await;
                assert_eq!((code, found.len()), (RCODE::NoError, 2));
                assert!(found.contains(&web4.parse().unwrap()));
                assert_eq!(ask("web.shop.skerry.internal", TYPE::AAAA).await.1.len(), 2);
                let service: IpAddr = layout.services.values().next().unwrap().v4.into();
                assert_eq!(ask("front", TYPE::A).await, (RCODE::NoError, vec![service]));
                assert_eq!(ask("idle", TYPE::A).await, (RCODE::NoError, vec![]));
                assert_eq!(
                    ask("no.shop.skerry.internal", TYPE::A).await.0,
                    RCODE::NameError
                );
                let elsewhere: IpAddr = "203.0.113.1".parse().unwrap();
                assert_eq!(
                    ask("example.org", TYPE::A).await,
                    (RCODE::NoError, vec![elsewhere])
                );
                // Too long for a datagram: asked for by TCP, and told so.
                let long = ask("long.example", TYPE::A).await;
                assert_eq!(long.1.len(), if by_tcp { 100 } else { 0 });
            }
            // What changes is known at once.
            device.wanted_pod("shop/web/1").ready = false;
            *names.borrow_mut() = Names::of(&namespace, &device.wanted, &layout);
            from_pod(query("web", TYPE::A), false);
            assert_eq!(read(&answers.recv().await.unwrap()).1.len(), 1);
            // No resolver at all: said at once. And rubbish harms nobody.
            std::fs::write(&file, "").unwrap();
            from_pod(query("example.org", TYPE::A), false);
            assert_eq!(read(&answers.recv().await.unwrap()).0, RCODE::ServerFailure);
            let rubbish = UdpSocket::bind("0.0.0.0:0").unwrap();
            rubbish.send_to(&[7; 40], (gateway, 53)).unwrap();
            from_pod(query("web", TYPE::A), false);
            assert_eq!(read(&answers.recv().await.unwrap()).1.len(), 1);
        }));
    });
}
