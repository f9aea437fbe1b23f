use super::*;
use skerry_wire::finding::Finding;
use skerry_wire::message::Reply;
use skerry_wire::stream::{Channel, End, Frame, FrameBody};

fn open_exec(world: &mut World, machine: &Machine) -> StreamId {
    let (answer, effects) = world.ask(|request| Event::OpenStream {
        request,
        device: machine.name.clone(),
        open: Open::Exec {
            app: app_ref("web"),
            container: None,
            args: vec!["sh".into()],
            tty: None,
            stdin: true,
        },
    });
    let Ok(Answer::Stream(stream)) = answer else {
        panic!("{answer:?}");
    };
    let command: Command = decode("command", &world.sent(&effects)[0].body).unwrap();
    assert_eq!(command.session, machine.session);
    let CommandBody::Exec(exec) = command.body else {
        panic!("{command:?}");
    };
    assert_eq!((exec.stream, exec.credit), (stream, Frame::WINDOW_BYTES));
    stream
}

fn frame(
    world: &mut World,
    machine: &mut Machine,
    stream: StreamId,
    number: u32,
    body: FrameBody,
) -> Vec<Effect> {
    let frame = Frame {
        stream,
        number,
        body,
    };
    world.hear(
        machine,
        Lane::StreamOut,
        Purpose::StreamOut,
        &encode(&frame),
    )
}

fn frames(world: &World, effects: &[Effect]) -> Vec<Frame> {
    let sent = world.sent(effects);
    sent.iter()
        .filter(|m| m.purpose == Purpose::StreamIn)
        .map(|m| decode("frame", &m.body).unwrap())
        .collect()
}

fn outputs(effects: &[Effect]) -> Vec<StreamOutput> {
    let outputs = effects.iter().filter_map(|effect| match effect {
        Effect::StreamOut(_, output) => Some(output.clone()),
        _ => None,
    });
    outputs.collect()
}

fn data(channel: Channel, bytes: usize) -> FrameBody {
    FrameBody::Data {
        channel,
        bytes: vec![7; bytes],
    }
}

#[test]
fn exec_carries_both_ways_within_credit() {
    let mut world = World::new();
    let mut kiosk = world.device("kiosk", "amd64");
    let stream = open_exec(&mut world, &kiosk);
    // Without credit the input waits.
    let input = Input::Data(vec![1; 1000]);
    let effects = world.say(Event::StreamInput { stream, input });
    assert!(frames(&world, &effects).is_empty());
    let effects = frame(
        &mut world,
        &mut kiosk,
        stream,
        0,
        FrameBody::Credit { bytes: 600 },
    );
    let sent = frames(&world, &effects);
    assert_eq!(sent[0].body, {
        FrameBody::Data {
            channel: Channel::Input,
            bytes: vec![1; 600],
        }
    });
    assert!(outputs(&effects).is_empty());
    let effects = frame(
        &mut world,
        &mut kiosk,
        stream,
        1,
        FrameBody::Credit { bytes: 600 },
    );
    assert_eq!(frames(&world, &effects)[0].number, 1);
    assert_eq!(outputs(&effects), vec![StreamOutput::InputTaken]);

    // Output uses up the window; consuming half of it gives it back.
    let piece = Frame::MAX_DATA_BYTES;
    let effects = frame(
        &mut world,
        &mut kiosk,
        stream,
        2,
        data(Channel::Error, piece),
    );
    assert!(matches!(
        outputs(&effects)[0],
        StreamOutput::Data(Channel::Error, _)
    ));
    let half = Frame::WINDOW_BYTES / 2;
    let bytes = half - 1;
    let effects = world.say(Event::StreamConsumed { stream, bytes });
    assert!(frames(&world, &effects).is_empty());
    let effects = world.say(Event::StreamConsumed { stream, bytes: 1 });
    assert_eq!(
        frames(&world, &effects)[0].body,
        FrameBody::Credit { bytes: half }
    );
    let effects = frame(
        &mut world,
        &mut kiosk,
        stream,
        3,
        FrameBody::End(End::Exit(3)),
    );
    assert_eq!(outputs(&effects), vec![StreamOutput::End(End::Exit(3))]);
    assert_eq!(world.fleet.open_streams(), 0);
}

#[test]
fn a_stream_ends_when_something_is_wrong_with_it() {
    let piece = Frame::MAX_DATA_BYTES;
    let too_much: Vec<FrameBody> = (0..12).map(|_| data(Channel::Output, piece)).collect();
    let cases = [
        (vec![(1, FrameBody::Credit { bytes: 1 })], "Lost"),
        (
            too_much
                .into_iter()
                .enumerate()
                .map(|(n, b)| (n as u32, b))
                .collect(),
            "more than it may",
        ),
        (
            vec![(0, data(Channel::Output, piece + 1))],
            "more than it may",
        ),
        (vec![(0, FrameBody::CloseInput)], "no sense"),
    ];
    for (sent, words) in cases {
        let mut world = World::new();
        let mut kiosk = world.device("kiosk", "amd64");
        let stream = open_exec(&mut world, &kiosk);
        let mut last = Vec::new();
        for (number, body) in sent {
            let effects = frame(&mut world, &mut kiosk, stream, number, body);
            last = outputs(&effects);
            if matches!(last.first(), Some(StreamOutput::End(_))) {
                assert_eq!(
                    frames(&world, &effects)[0].body,
                    FrameBody::End(End::Cancelled)
                );
                break;
            }
        }
        assert!(format!("{last:?}").contains(words), "{last:?} / {words}");
        assert_eq!(world.fleet.open_streams(), 0);
    }
}

#[test]
fn streams_end_with_their_device_and_their_line() {
    let mut world = World::new();
    let mut kiosk = world.device("kiosk", "amd64");
    let ended = |effects: &[Effect]| {
        matches!(
            outputs(effects).as_slice(),
            [StreamOutput::End(End::Failed(_))]
        )
    };
    open_exec(&mut world, &kiosk);
    let gone = encode(&skerry_wire::message::Gone {
        session: kiosk.session,
        connection: 1,
    });
    let effects = world.hear(&mut kiosk, Lane::Presence, Purpose::Gone, &gone);
    assert!(ended(&effects));
    let open = |request| Event::OpenStream {
        request,
        device: name("kiosk"),
        open: Open::Exec {
            app: app_ref("web"),
            container: None,
            args: vec!["sh".into()],
            tty: None,
            stdin: false,
        },
    };
    let (answer, _) = world.ask(open);
    assert_eq!(answer.unwrap_err().kind, RefusedKind::Unavailable);

    world.connect(&mut kiosk, Generation(0));
    open_exec(&mut world, &kiosk);
    let next_life = encode(&Presence {
        session: SessionId(kiosk.session.0 ^ 1),
        connection: 1,
        generation: Generation(0),
    });
    let effects = world.hear(&mut kiosk, Lane::Presence, Purpose::Presence, &next_life);
    assert!(ended(&effects));
    kiosk.session = SessionId(kiosk.session.0 ^ 1);
    open_exec(&mut world, &kiosk);
    assert!(ended(&world.say(Event::LinkDown)));
    assert_eq!(world.connection(&kiosk), Connection::Unknown);
}

#[test]
fn streams_of_one_device_are_bounded() {
    let mut world = World::new();
    let kiosk = world.device("kiosk", "amd64");
    for _ in 0..16 {
        open_exec(&mut world, &kiosk);
    }
    let (answer, _) = world.ask(|request| Event::OpenStream {
        request,
        device: kiosk.name.clone(),
        open: Open::Logs {
            app: app_ref("web"),
            container: None,
            tail: Some(1),
            since_secs: None,
            follow: false,
            timestamps: false,
        run: None,
        previous: false,
        },
    });
    assert_eq!(answer.unwrap_err().kind, RefusedKind::TooMany);
}

/// A device that fetches a blob, with the hub's disk played by the test.
#[test]
fn a_blob_comes_whole_from_its_offset_within_credit() {
    let mut world = World::new();
    world.add_image("demo:1", &["amd64"]);
    let mut kiosk = world.device("kiosk", "amd64");
    world.apply(vec![app("web", "", "demo:1")]).0.unwrap();
    let (digest, size) = image("demo:1", &["amd64"]).platforms[0].blobs[0];
    let stream = StreamId(1);
    // Exactly the credit that the rest needs: the end must come without more.
    let (offset, credit) = (1_000, (size - 1_000) as u32);
    let open = FrameBody::OpenBlob {
        digest,
        offset,
        credit,
    };
    let mut effects = frame(&mut world, &mut kiosk, stream, 0, open);
    let mut have = offset;
    let mut number = 0;
    loop {
        for sent in frames(&world, &effects) {
            assert_eq!((sent.stream, sent.number), (stream, number));
            number += 1;
            match sent.body {
                FrameBody::Data { bytes, .. } => have += bytes.len() as u64,
                FrameBody::End(end) => {
                    assert_eq!((end, have), (End::Done, size));
                    assert_eq!(world.fleet.open_streams(), 0);
                    return;
                }
                other => panic!("{other:?}"),
            }
        }
        let read = effects.iter().find_map(|effect| match effect {
            Effect::ReadBlob {
                offset, max_bytes, ..
            } => Some((*offset, *max_bytes)),
            _ => None,
        });
        let (at, bytes) = read.expect("it goes on");
        assert_eq!(at, have);
        effects = world.say(Event::BlobRead {
            device: kiosk.name.clone(),
            stream,
            result: Ok(vec![1; bytes]),
        });
    }
}

#[test]
fn only_blobs_of_its_own_images_are_given_to_a_device() {
    let mut world = World::new();
    world.add_image("demo:1", &["amd64", "arm64"]);
    world.add_image("other:1", &["amd64"]);
    let mut kiosk = world.device("kiosk", "amd64");
    world.apply(vec![app("web", "", "demo:1")]).0.unwrap();
    let of = |reference, arch| image(reference, &[arch]).platforms[0].manifest;
    for (number, (digest, given)) in [
        (of("demo:1", "amd64"), true),
        (of("demo:1", "arm64"), false),
        (of("other:1", "amd64"), false),
        (Digest::of(b"anything"), false),
    ]
    .into_iter()
    .enumerate()
    {
        let open = FrameBody::OpenBlob {
            digest,
            offset: 0,
            credit: 1000,
        };
        let stream = StreamId(2 * number as u64 + 1);
        let effects = frame(&mut world, &mut kiosk, stream, 0, open);
        let reads = effects.iter().any(|e| matches!(e, Effect::ReadBlob { .. }));
        assert_eq!(reads, given);
        let refused = frames(&world, &effects);
        assert_eq!(refused.is_empty(), given);
    }
    assert!(world.reasons().contains(&"BlobRefused".to_string()));
}

#[test]
fn blobs_are_fair_and_bounded() {
    let mut world = World::new();
    world.add_image("demo:1", &["amd64"]);
    world.apply(vec![app("web", "", "demo:1")]).0.unwrap();
    let (digest, _) = image("demo:1", &["amd64"]).platforms[0].blobs[0];
    let mut machines: Vec<Machine> = (0..20)
        .map(|n| world.device(&format!("d{n}"), "amd64"))
        .collect();
    let mut reads = Vec::new();
    for machine in &mut machines {
        let open = FrameBody::OpenBlob {
            digest,
            offset: 0,
            credit: Frame::WINDOW_BYTES,
        };
        reads.extend(frame(&mut world, machine, StreamId(1), 0, open));
    }
    let wanted = |effects: &[Effect]| -> Vec<(DeviceId, usize)> {
        let reads = effects.iter().filter_map(|effect| match effect {
            Effect::ReadBlob {
                device, max_bytes, ..
            } => Some((device.clone(), *max_bytes)),
            _ => None,
        });
        reads.collect()
    };
    let mut waiting = wanted(&reads);
    assert_eq!(waiting.len(), 16);
    // Each read that comes back lets the next device in: after twenty, each
    // device had one.
    let mut served = Vec::new();
    for _ in 0..20 {
        let (device, bytes) = waiting.remove(0);
        served.push(device.clone());
        let effects = world.say(Event::BlobRead {
            device,
            stream: StreamId(1),
            result: Ok(vec![0; bytes]),
        });
        waiting.extend(wanted(&effects));
        assert!(waiting.len() <= 16);
    }
    served.sort();
    served.dedup();
    assert_eq!(served.len(), 20);
    let (device, _) = waiting.remove(0);
    let effects = world.say(Event::BlobRead {
        device: device.clone(),
        stream: StreamId(1),
        result: Err("the disk is on fire".into()),
    });
    assert!(matches!(
        &frames(&world, &effects)[0].body,
        FrameBody::End(End::Failed(_))
    ));
    assert_eq!(world.event("BlobUnreadable").device, Some(device));
}

#[test]
fn usage_is_answered_or_given_up() {
    let mut world = World::new();
    let mut kiosk = world.device("kiosk", "amd64");
    let ask = |world: &mut World| {
        world.requests += 1;
        let request = RequestId(world.requests);
        let device = name("kiosk");
        let effects = world.say(Event::Usage { request, device });
        let command: Command = decode("command", &world.sent(&effects)[0].body).unwrap();
        match command.body {
            CommandBody::Usage { request: number } => (request, number),
            other => panic!("{other:?}"),
        }
    };
    let (request, number) = ask(&mut world);
    let reply = encode(&Reply::Usage {
        request: number,
        containers: Vec::new(),
    });
    let effects = world.hear(&mut kiosk, Lane::Reply, Purpose::Reply, &reply);
    assert!(effects.contains(&Effect::Answer(request, Ok(Answer::Usage(Vec::new())))));
    let (request, _) = ask(&mut world);
    world.now = Timestamp(world.now.0 + 10_000);
    let effects = world.say(Event::Tick);
    assert!(matches!(
        effects.as_slice(),
        [Effect::Answer(of, Err(_))] if *of == request
    ));
}

#[test]
fn a_device_is_asked_what_is_wrong_with_it_and_told_the_time() {
    let mut world = World::new();
    let mut kiosk = world.device("kiosk", "amd64");
    let mut other = world.device("other", "amd64");
    world.requests += 1;
    let request = RequestId(world.requests);
    let device = name("kiosk");
    let effects = world.say(Event::Doctor { request, device });
    let command: Command = decode("command", &world.sent(&effects)[0].body).unwrap();
    let CommandBody::Doctor {
        request: number,
        hub_time,
    } = command.body
    else {
        panic!("{command:?}");
    };
    assert_eq!(hub_time, world.now);
    let findings = vec![Finding::good("Test", "well"); Finding::MAX + 1];
    let reply = encode(&Reply::Doctor {
        request: number,
        findings: findings.clone(),
    });
    // Another's answer is none, nor is one to another question.
    let effects = world.hear(&mut other, Lane::Reply, Purpose::Reply, &reply);
    assert_eq!(effects, []);
    let usage = encode(&Reply::Usage {
        request: number,
        containers: Vec::new(),
    });
    let effects = world.hear(&mut kiosk, Lane::Reply, Purpose::Reply, &usage);
    assert_eq!(effects, []);
    // A diagnosis takes longer than a look at usage.
    world.now = Timestamp(world.now.0 + 30_000);
    world.say(Event::Tick);
    let effects = world.hear(&mut kiosk, Lane::Reply, Purpose::Reply, &reply);
    let bounded = Answer::Doctor(findings[1..].to_vec());
    assert!(effects.contains(&Effect::Answer(request, Ok(bounded))));
}
