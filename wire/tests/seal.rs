//! What the sealed line refuses.

use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use skerry_wire::seal::*;
use skerry_wire::token::JoinToken;
use skerry_wire::{DesiredPart, FleetId, Generation, Seq, decode, encode};

const TOPIC: &str = "skerry/v1/acme/kiosk-7/desired";

struct Line {
    rng: ChaCha20Rng,
    hub: KeyPair,
    device: KeyPair,
    other: KeyPair,
}

fn line() -> Line {
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    Line {
        hub: KeyPair::generate(&mut rng),
        device: KeyPair::generate(&mut rng),
        other: KeyPair::generate(&mut rng),
        rng,
    }
}

impl Line {
    fn sealed(&mut self, body: &[u8]) -> Vec<u8> {
        let to = self.device.public();
        seal(
            Purpose::Desired,
            Seq(9),
            TOPIC,
            &self.hub,
            &to,
            body,
            &mut self.rng,
        )
        .unwrap()
    }

    fn open(&self, message: &[u8]) -> Result<Opened, Refusal> {
        open(
            message,
            &[Purpose::Desired],
            TOPIC,
            &self.hub.public(),
            &self.device,
        )
    }
}

#[test]
fn only_the_right_reader_topic_sender_and_purpose_open_it() {
    let mut line = line();
    let message = line.sealed(b"state");
    assert_eq!(line.open(&message).unwrap().body, b"state");
    assert_eq!(line.open(&message).unwrap().seq, Seq(9));
    let hub = line.hub.public();
    let refused = [
        open(
            &message,
            &[Purpose::Desired],
            "skerry/v1/acme/kiosk-8/desired",
            &hub,
            &line.device,
        ),
        open(
            &message,
            &[Purpose::Desired],
            TOPIC,
            &line.other.public(),
            &line.device,
        ),
        open(&message, &[Purpose::Desired], TOPIC, &hub, &line.other),
    ];
    for result in refused {
        assert_eq!(result, Err(Refusal::Forged));
    }
    assert_eq!(
        open(&message, &[Purpose::Command], TOPIC, &hub, &line.device),
        Err(Refusal::Purpose)
    );
    let mut relabelled = message.clone();
    relabelled[1] = Purpose::Command as u8;
    assert_eq!(
        open(&relabelled, &[Purpose::Command], TOPIC, &hub, &line.device),
        Err(Refusal::Forged)
    );
    let mut newer = message;
    newer[0] = 2;
    assert_eq!(line.open(&newer), Err(Refusal::Version(2)));
    assert_eq!(
        line.open(&vec![1; MAX_MESSAGE_BYTES + 1]),
        Err(Refusal::TooLong)
    );
}

#[test]
fn the_body_cannot_be_seen() {
    let mut line = line();
    let message = line.sealed(b"password=hunter2");
    assert!(!message.windows(7).any(|w| w == b"hunter2"));
}

#[test]
fn numbers_only_rise_for_each_purpose() {
    let mut guard = ReplayGuard::default();
    assert_eq!(guard.admit(Purpose::Report, Seq(5)), Ok(()));
    assert_eq!(guard.admit(Purpose::Report, Seq(5)), Err(Refusal::Replayed));
    assert_eq!(guard.admit(Purpose::Report, Seq(4)), Err(Refusal::Replayed));
    assert_eq!(guard.admit(Purpose::Presence, Seq(4)), Ok(()));
    assert_eq!(guard.admit(Purpose::Report, Seq::first_of_start(1)), Ok(()));
    assert_eq!(
        guard.admit(Purpose::Presence, Seq(0)),
        Err(Refusal::Replayed)
    );
}

#[test]
fn a_join_needs_the_token() {
    let mut line = line();
    let token = TokenSecret {
        id: [1; 8],
        secret: [2; 32],
    };
    let topic = "skerry/v1/acme/join/0123456789abcdef0123456789abcdef/request";
    let hub = line.hub.public();
    let message = seal_join(
        &token,
        Seq(1),
        topic,
        &line.device,
        &hub,
        b"hi",
        &mut line.rng,
    )
    .unwrap();
    let opened = open_join(&message, &token, topic, &line.hub).unwrap();
    assert_eq!(opened.device_key, line.device.public());
    assert_eq!(opened.body, b"hi");
    let guess = TokenSecret {
        id: [1; 8],
        secret: [3; 32],
    };
    assert_eq!(
        open_join(&message, &guess, topic, &line.hub),
        Err(Refusal::Forged)
    );
    assert_eq!(
        open_join(&message, &token, "other", &line.hub),
        Err(Refusal::Forged)
    );
    // Somebody else's key in place of the sender's.
    let mut swapped = message;
    swapped[18..50].copy_from_slice(line.other.public().as_bytes());
    assert_eq!(
        open_join(&swapped, &token, topic, &line.hub),
        Err(Refusal::Forged)
    );
}

#[test]
fn tokens_survive_copying_and_show_damage() {
    let token = JoinToken {
        fleet: FleetId::new("acme").unwrap(),
        broker: "mqtts://hub.example:8883".into(),
        hub_key: line().hub.public(),
        tls_pin: None,
        secret: TokenSecret {
            id: [1; 8],
            secret: [2; 32],
        },
    };
    let text = token.to_string();
    assert_eq!(format!(" {text}\n").parse(), Ok(token));
    for cut in 0..text.len() {
        assert!(text[..cut].parse::<JoinToken>().is_err());
    }
    let altered = text.replace("skerry1.", "skerry1.A");
    assert!(altered.parse::<JoinToken>().is_err());
}

#[test]
fn a_long_desired_state_comes_in_parts() {
    let whole = vec![7; DesiredPart::MAX_BYTES * 2 + 1];
    let parts = DesiredPart::split(Generation(1), &whole);
    assert_eq!(parts.len(), 3);
    let joined: Vec<u8> = parts.iter().flat_map(|p| p.bytes.clone()).collect();
    assert_eq!(joined, whole);
    assert!(encode(&parts[0]).len() + 1024 < MAX_MESSAGE_BYTES);
}

proptest! {
    #[test]
    fn any_flipped_bit_is_refused(at in 0usize..71, bit in 0u8..8) {
        let mut line = line();
        let mut message = line.sealed(b"state");
        let at = at % message.len();
        message[at] ^= 1 << bit;
        prop_assert!(line.open(&message).is_err());
    }

    #[test]
    fn garbage_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let line = line();
        prop_assert!(line.open(&bytes).is_err());
        let _ = decode::<skerry_wire::Desired>("desired", &bytes);
        let _ = decode::<skerry_wire::report::Report>("report", &bytes);
    }
}
