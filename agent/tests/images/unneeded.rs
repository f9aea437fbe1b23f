//! Images that nobody needs, and those that the disk damaged.

use super::*;

/// Minutes after some boot, by a clock that nobody vouches for.
fn minute(n: u64) -> Moment {
    Moment {
        boot_id: "this".into(),
        boot_ms: n * 60_000,
        wall: skerry_wire::Timestamp(0),
        trusted: false,
    }
}

fn numbered(n: u32) -> Image {
    let base = Tar::default().file("base", "b").end();
    let own = Tar::default()
        .file("own", &"x".repeat(n as usize + 1))
        .end();
    plain_image(&[base, own])
}

fn need(device: &Device, images: &[&Image]) {
    let manifests = images.iter().map(|image| image.reference.manifest);
    device.store.need(manifests.collect());
}

fn collect(device: &Device, used: &[&Image], now: u64, full: u8) -> Collected {
    let used = used.iter().map(|image| image.reference.manifest).collect();
    let policy = Policy::default();
    let collected = device
        .store
        .collect(&used, &minute(now), &policy, || Some(full));
    collected.unwrap()
}

fn is_here(device: &Device, image: &Image) -> bool {
    matches!(
        device.store.status(&image.reference).unwrap(),
        Status::Ready(_)
    )
}

#[test]
fn an_image_that_nobody_needs_stays_until_the_disk_is_full_or_it_is_old() {
    let device = Device::new();
    let images: Vec<Image> = (0..5).map(numbered).collect();
    for image in &images {
        device.take(image).unwrap();
    }
    // Nobody knows what is needed: nothing goes, however full the disk is.
    assert_eq!(collect(&device, &[], 0, 100).removed, 0);
    // They come to be of no use one after the other: 2, then 0, then 1.
    need(&device, &[&images[0], &images[1], &images[3], &images[4]]);
    assert_eq!(collect(&device, &[], 1, 50).unneeded, 1);
    need(&device, &[&images[1], &images[3]]);
    // A container still runs from 4.
    assert_eq!(collect(&device, &[&images[4]], 2, 50).unneeded, 2);
    let device = device.restart();
    need(&device, &[&images[3]]);
    let seen = collect(&device, &[&images[4]], 3, 85);
    assert_eq!((seen.removed, seen.unneeded, seen.here), (0, 3, 5));

    // Full: the one that has been of no use for longest goes first, and only
    // as many as it takes. A restart has not made them forget since when.
    let fullness = std::cell::Cell::new(86);
    let full = || {
        let here = device.entries("layers");
        fullness.set(if here >= 6 { 86 } else { 80 });
        Some(fullness.get())
    };
    let used = [images[4].reference.manifest].into();
    let collected = device
        .store
        .collect(&used, &minute(4), &Policy::default(), full);
    assert_eq!(collected.unwrap().removed, 1);
    let here = |n: usize| is_here(&device, &images[n]);
    assert_eq!([0, 1, 2, 3, 4].map(here), [true, true, false, true, true]);

    // Old: all that nobody needs goes, what a container runs from does not.
    let month = 30 * 24 * 60;
    assert_eq!(collect(&device, &[&images[4]], month + 2, 10).removed, 1);
    assert_eq!(collect(&device, &[&images[4]], month + 3, 10).removed, 1);
    assert_eq!([0, 1, 2, 3, 4].map(here), [false, false, false, true, true]);
    // The layer that they share is still there, and nothing of the others.
    assert_eq!(device.entries("layers"), 3);
    assert_eq!(device.entries("marks"), 3);
    assert_eq!(device.entries("blobs"), 4);
    assert_eq!(device.entries("tmp"), 0);
    assert_eq!(collect(&device, &[], month + 4, 90).removed, 1);
    assert!(here(3), "however full the disk is");
}

#[test]
fn a_wall_clock_that_nobody_vouches_for_makes_no_image_old() {
    let device = Device::new();
    let (old, new) = (numbered(1), numbered(2));
    device.take(&old).unwrap();
    need(&device, &[&new]);
    let at = |wall: u64, trusted| Moment {
        wall: skerry_wire::Timestamp(wall),
        trusted,
        ..minute(1)
    };
    let policy = Policy::default();
    let removed = |now: Moment| {
        let used = BTreeSet::new();
        let collected = device.store.collect(&used, &now, &policy, || Some(50));
        collected.unwrap().removed
    };
    let day = 24 * 3_600 * 1_000;
    assert_eq!(removed(at(1_000 * day, true)), 0);
    // 1970, and a leap ahead.
    assert_eq!(removed(at(0, false)), 0);
    assert_eq!(removed(at(9_000 * day, false)), 0);
    assert_eq!(removed(at(1_029 * day, true)), 0);
    assert_eq!(removed(at(1_030 * day, true)), 1);
}

#[test]
fn an_idle_look_for_what_nobody_needs_writes_nothing() {
    let device = Device::new();
    let (one, two) = (numbered(1), numbered(2));
    device.take(&one).unwrap();
    device.take(&two).unwrap();
    need(&device, &[&one]);
    collect(&device, &[], 1, 50);
    let script = "find . -printf '%P %s %T@ %C@ %A@\\n' | sort";
    let all = || {
        run(Command::new("sh")
            .arg("-c")
            .arg(script)
            .current_dir(device.images()))
    };
    // Looking itself leaves its time, once.
    all();
    let before = all();
    for n in 2..100 {
        assert_eq!(collect(&device, &[], n * 10, 50).unneeded, 1);
    }
    assert_eq!(all(), before);
}

#[test]
fn what_is_left_of_a_pull_that_was_given_up_goes() {
    let device = Device::new();
    let (wanted, given_up) = (numbered(1), numbered(2));
    device.take(&wanted).unwrap();
    need(&device, &[&wanted, &given_up]);
    let need_of = |device: &Device| match device.store.status(&given_up.reference).unwrap() {
        Status::Missing(needs) => needs[0],
        other => panic!("{other:?}"),
    };
    // Manifest and config are here, and a part of the layer.
    for _ in 0..2 {
        device.push(&need_of(&device), &given_up).unwrap();
    }
    let mut writer = device.store.begin(&need_of(&device)).unwrap();
    writer.write(&[0; 100]).unwrap();
    drop(writer);
    collect(&device, &[], 1, 99);
    assert_eq!(device.entries("blobs"), 5, "it is still wanted");
    need(&device, &[&wanted]);
    let collected = collect(&device, &[], 2, 10);
    assert_eq!(collected.removed, 0, "it never was an image");
    assert_eq!(device.entries("blobs"), 2);
    assert!(is_here(&device, &wanted));
}

#[test]
fn a_power_cut_while_an_image_is_removed_leaves_none_that_claims_to_be_whole() {
    let gone = numbered(1);
    let manifest = gone.reference.manifest.hex();
    // However far it came: the manifest goes first, then layers are moved, then
    // emptied; other files in any order.
    for step in 0..4 {
        let device = Device::new();
        let stays = numbered(2);
        device.take(&stays).unwrap();
        let ready = device.take(&gone).unwrap();
        let own = ready.layers[1].clone();
        let moved = device.images().join("tmp/gone-layer");
        fs::remove_file(device.images().join("blobs").join(&manifest)).unwrap();
        if step > 0 {
            fs::rename(&own, &moved).unwrap();
        }
        if step > 1 {
            fs::remove_file(moved.join("own")).unwrap();
        }
        if step > 2 {
            let marks = device.images().join("marks");
            fs::remove_file(marks.join(own.file_name().unwrap())).unwrap();
        }
        let device = device.restart();
        assert!(!is_here(&device, &gone), "{step}");
        need(&device, &[&stays]);
        collect(&device, &[], 1, 10);
        assert_eq!(device.entries("layers"), 2, "{step}");
        assert_eq!(device.entries("marks"), 2, "{step}");
        assert_eq!(device.entries("blobs"), 2, "{step}");
        assert_eq!(device.entries("tmp"), 0, "{step}");
        assert!(is_here(&device, &stays), "{step}");
        device.take(&gone).unwrap();
    }
}

#[test]
fn a_damaged_layer_is_found_and_replaced_while_containers_run_from_the_old_one() {
    let base = Tar::default().dir("bin").file("bin/sh", "shell").end();
    let top = Tar::default()
        .dir("etc")
        .file("etc/name", "app")
        .symlink("etc/link", "name")
        .end();
    let image = plain_image(&[base, top]);
    let other = numbered(7);
    let device = Device::new();
    let ready = device.take(&image).unwrap();
    device.take(&other).unwrap();
    assert_eq!(device.store.examine(&image.reference).unwrap(), []);
    // As fsck does it, and as a truncated inode looks.
    type Harm = fn(&Path);
    let harms: [(usize, Harm); 5] = [
        (0, |dir| fs::remove_file(dir.join("bin/sh")).unwrap()),
        (0, |dir| fs::write(dir.join("bin/sh"), "").unwrap()),
        (0, |dir| fs::remove_dir_all(dir.join("bin")).unwrap()),
        (1, |dir| fs::remove_file(dir.join("etc/link")).unwrap()),
        (1, |dir| {
            fs::rename(dir.join("etc/name"), dir.join("etc/x")).unwrap()
        }),
    ];
    for (number, (layer, harm)) in harms.into_iter().enumerate() {
        harm(&ready.layers[layer]);
        assert!(is_here(&device, &image), "nobody has looked yet");
        let damaged = device.store.examine(&image.reference).unwrap();
        let numbers: Vec<usize> = damaged.iter().map(|layer| layer.number).collect();
        assert_eq!(numbers, [layer + 1], "{number}");
        let Status::Missing(needs) = device.store.status(&image.reference).unwrap() else {
            panic!("{number}: it is to be fetched again");
        };
        assert_eq!(needs.len(), 1);
        assert_eq!(needs[0].kind, NeedKind::Layer(layer));
        // Until then it is better than nothing.
        let usable = device.store.usable(&image.reference).unwrap();
        assert_eq!(usable, Some(ready.clone()));
        assert_eq!(device.take(&image).unwrap(), ready);
        assert_eq!(device.store.examine(&image.reference).unwrap(), []);
        assert_eq!(merged(&ready, "cat bin/sh etc/link"), "shellapp");
        assert_eq!(device.entries("aside"), number + 1);
        assert!(is_here(&device, &other));
    }
    // A layer that is not there at all is missing without being looked for.
    fs::remove_dir_all(&ready.layers[1]).unwrap();
    assert_eq!(device.store.usable(&image.reference).unwrap(), None);
    device.take(&image).unwrap();
    // Those who ran from the old ones are gone with the boot.
    let stale = device.images().join("aside/another-boot.layer.0");
    fs::create_dir(&stale).unwrap();
    let device = device.restart();
    assert_eq!(device.entries("aside"), 5);
    assert!(!stale.exists());
}
