//! Blobs that come in parts, and parts that the disk tore.

use super::*;
/// A power cut after any number of bytes, then more bytes, to the end.
#[test]
fn a_cut_at_any_byte_is_continued() {
    let layer = Tar::default().file("f", &"content ".repeat(100)).end();
    let image = image_of(&[(gzip(&layer), layer)]);
    for step in [1usize, 7, 64, 150] {
        let mut device = Device::new();
        let mut sent = 0;
        let ready = loop {
            match device.store.unpack(&image.reference).unwrap() {
                Status::Ready(ready) => break ready,
                Status::Fetched => unreachable!(),
                Status::Missing(needs) => {
                    let bytes = &image.blobs[&needs[0].digest];
                    let mut writer = device.begin(&needs[0]).unwrap();
                    let offset = writer.offset() as usize;
                    let end = bytes.len().min(offset + step);
                    writer.write(&bytes[offset..end]).unwrap();
                    sent += end - offset;
                    if end == bytes.len() {
                        writer.finish().unwrap();
                    } else {
                        drop(writer);
                    }
                    // Half an unpacked layer, as a cut would leave it.
                    let half = device.images().join("tmp/half/etc");
                    fs::create_dir_all(&half).unwrap();
                    fs::write(half.join("passwd"), "half").unwrap();
                    device = device.restart();
                    assert_eq!(device.entries("tmp"), 0);
                }
            }
        };
        // No byte came twice.
        assert_eq!(sent, image.blobs.values().map(Vec::len).sum::<usize>());
        assert_eq!(names(&ready), "f");
    }
}

#[test]
fn torn_parts_and_documents_are_noticed_and_fetched_again() {
    let layer = Tar::default().file("f", "content").end();
    let image = plain_image(std::slice::from_ref(&layer));
    let device = Device::new();
    // The file has its length, but the disk never got the bytes.
    let part = device
        .images()
        .join("blobs")
        .join(format!("{}.part", Digest::of(&layer).hex()));
    fs::write(&part, vec![0; 700]).unwrap();
    let said = chain(device.take(&image).unwrap_err().as_ref());
    assert!(said.contains("fetch it again"), "{said}");
    device.take(&image).unwrap();
    // A manifest that rotted on the card.
    let manifest = device
        .images()
        .join("blobs")
        .join(image.reference.manifest.hex());
    fs::write(&manifest, "rotten").unwrap();
    let Status::Missing(needs) = device.store.status(&image.reference).unwrap() else {
        panic!("rotten")
    };
    assert_eq!(needs[0].kind, NeedKind::Manifest);
    device.take(&image).unwrap();
    // A part longer than the blob.
    fs::write(&part, vec![0; layer.len() + 1]).unwrap();
    let need = Need {
        digest: Digest::of(&layer),
        size: layer.len() as u64,
        kind: NeedKind::Layer(0),
    };
    let writer = device.store.begin(&need).unwrap();
    assert_eq!(writer.offset(), 0);
    // One writer at a time.
    assert!(
        device
            .store
            .begin(&need)
            .unwrap_err()
            .to_string()
            .contains("already")
    );
}
