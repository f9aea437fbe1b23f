//! Which images are needed, and which are had again.

use crate::world::*;
use skerry_agent::core::{Effect, Event};
use skerry_agent::runtime::{Exit, ExitStatus};
use skerry_wire::*;

fn image(revision: &str) -> Digest {
    Digest::of(revision.as_bytes())
}

#[test]
fn an_image_is_needed_as_long_as_it_is_wanted_or_gone_back_to() {
    let mut world = World::new();
    world.say(Event::Listed(vec![]));
    // Nobody has said what shall run.
    assert_eq!(world.needed, []);
    world.tell_desired(1, &[("a", "1")]);
    assert_eq!(world.needed, [[image("1")].into()]);
    // Until it has proved itself, the one before it is kept.
    world.now_ms = 1_000_000;
    world.say(Event::Wake);
    world.needed.clear();
    world.tell_desired(2, &[("a", "2")]);
    let kept = world.records.previous.len();
    let last = world.needed.last().expect("it changed");
    assert!(last.contains(&image("2")));
    assert_eq!(last.contains(&image("1")), kept == 1);
    // A start says it again, for a machine that knows nothing yet.
    let before = last.clone();
    world.needed.clear();
    world.start_again();
    assert_eq!(world.needed, [before]);
    // Said once only.
    world.say(Event::Listed(vec![]));
    for minute in 0..60 {
        world.now_ms += 60_000 * minute;
        world.say(Event::Wake);
    }
    let last = world.needed.last().expect("said at the start").clone();
    assert_eq!(last, [image("2")].into(), "it is good");
    assert!(world.needed.len() <= 2);
}

#[test]
fn an_image_that_lost_files_is_had_again_and_what_runs_from_it_goes_on() {
    let mut world = World::new();
    world.say(Event::Listed(vec![]));
    world.tell_desired(1, &[("a", "1"), ("b", "2")]);
    let manifest = image("1");
    let lost = |reason: &str| Event::ImageLost {
        manifest,
        reason: reason.into(),
    };
    let effects = world.core.handle(world.now(), lost("files are gone"));
    let fetches =
        |e: &&Effect| matches!(e, Effect::PrepareImage(image) if image.manifest == manifest);
    assert_eq!(effects.iter().filter(fetches).count(), 1);
    assert!(
        !effects
            .iter()
            .any(|e| matches!(e, Effect::Stop { .. } | Effect::Kill { .. }))
    );
    assert_eq!(running(&world.core), 2);
    assert!(world.reasons().contains(&"ImageDamaged".to_string()));
    // While it is on its way, hearing so again changes nothing.
    let effects = world.core.handle(world.now(), lost("files are gone"));
    assert_eq!(effects.iter().filter(fetches).count(), 0);
    assert!(!world.core.observed().has_image(&manifest));
    // One that nobody knows is no news.
    let other = Event::ImageLost {
        manifest: image("9"),
        reason: "files are gone".into(),
    };
    let effects = world.core.handle(world.now(), other);
    assert!(!effects.iter().any(|e| matches!(e, Effect::PrepareImage(_))));
}

#[test]
fn an_image_is_examined_when_its_program_is_not_found_and_not_each_time() {
    let mut world = World::new();
    world.say(Event::Listed(vec![]));
    world.tell_desired(1, &[("a", "1")]);
    let end = |world: &mut World, status| {
        let (name, entry) = world.core.ledger().iter().next().expect("an entry");
        let id = name.incarnation(entry.incarnation);
        let exit = Exit {
            status,
            oom_killed: false,
            at: skerry_agent::runtime::Timestamp(0),
        };
        world.say(Event::Exited { id, exit });
        // Back off, and start again.
        world.now_ms += 5 * 60_000 + 1;
        world.say(Event::Wake);
        world.examined.len()
    };
    assert_eq!(end(&mut world, ExitStatus::Code(1)), 0);
    assert_eq!(end(&mut world, ExitStatus::Signal(11)), 0);
    assert_eq!(end(&mut world, ExitStatus::Code(127)), 1);
    assert_eq!(end(&mut world, ExitStatus::Signal(7)), 1, "just now");
    assert_eq!(end(&mut world, ExitStatus::Signal(7)), 2);
    assert_eq!(world.examined, [image("1"); 2]);
}
