use super::*;
use proptest::prelude::*;

fn all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut reader = Reader::new(bytes);
    let mut out = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut content = Vec::new();
        let mut buffer = [0; 700];
        loop {
            match reader.read(&mut buffer)? {
                0 => break,
                count => content.extend_from_slice(&buffer[..count]),
            }
        }
        out.push((entry, content));
    }
    Ok(out)
}

fn builder() -> ::tar::Builder<Vec<u8>> {
    ::tar::Builder::new(Vec::new())
}

fn file(path: &str, bytes: &[u8], pax: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = builder();
    builder.append_pax_extensions(pax.iter().copied()).unwrap();
    let mut header = ::tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o4755);
    header.set_uid(7);
    header.set_mtime(1234);
    builder.append_data(&mut header, path, bytes).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn pax_records_win_over_the_header() {
    let cap: &[u8] = b"\x01\x00\x00\x02\x0a\x00=\n\x00";
    let pax: &[(&str, &[u8])] = &[
        ("path", b"caf\xc3\xa9/\nx"),
        ("uid", b"4000000000"),
        ("mtime", b"-1.25"),
        ("SCHILY.xattr.security.capability", cap),
    ];
    let entries = all(&file("short", b"hello", pax)).unwrap();
    let (entry, content) = &entries[0];
    assert_eq!(content, b"hello");
    assert_eq!(entry.path, "caf\u{e9}/\nx".as_bytes());
    assert_eq!(
        (entry.mode, entry.uid, entry.gid),
        (0o4755, 4_000_000_000, 0)
    );
    assert_eq!(
        entry.mtime,
        Time {
            seconds: -2,
            nanos: 750_000_000
        }
    );
    assert_eq!(
        entry.xattrs,
        [(b"security.capability".to_vec(), cap.to_vec())]
    );
}

#[test]
fn the_last_padding_may_be_missing_but_no_content() {
    let whole = file("bin/app", &[7; 700], &[]);
    let content_end = 512 + 700;
    assert_eq!(all(&whole[..content_end]).unwrap()[0].1, [7; 700]);
    assert!(all(&whole[..content_end - 1]).is_err());
    assert!(all(&whole[..content_end + 1]).is_err());
}

#[test]
fn a_pax_size_is_the_size() {
    // The header says 5, PAX says 3: the rest of the block is padding.
    let entries = all(&file("a", b"hello", &[("size", b"3")])).unwrap();
    assert_eq!(entries[0].1, b"hel");
    // PAX says more than there is.
    assert!(matches!(
        all(&file("a", b"hello", &[("size", b"99999")])),
        Err(TarError::Truncated)
    ));
    for wrong in ["-1", "1e3", "99999999999999999999999"] {
        let error = all(&file("a", b"", &[("size", wrong.as_bytes())])).unwrap_err();
        assert!(matches!(error, TarError::Number("size")), "{error}");
    }
}

#[test]
fn long_names_of_both_kinds() {
    let long = "d/".repeat(200) + "end";
    let mut gnu = builder();
    let mut header = ::tar::Header::new_gnu();
    header.set_entry_type(::tar::EntryType::Symlink);
    header.set_size(0);
    gnu.append_link(&mut header, &long, &long).unwrap();
    let entries = all(&gnu.into_inner().unwrap()).unwrap();
    assert_eq!(entries[0].0.path, long.as_bytes());
    assert_eq!(entries[0].0.kind, Kind::Symlink(long.clone().into_bytes()));
    let entries = all(&file("x", b"", &[("path", long.as_bytes())])).unwrap();
    assert_eq!(entries[0].0.path, long.as_bytes());
}

#[test]
fn every_sparse_form() {
    let sparse =
        |pax: &[(&str, &[u8])], content: &[u8]| all(&file("GNUSparseFile.0/f", content, pax));
    let expected = Kind::File {
        parts: vec![
            Part {
                offset: 512,
                length: 3,
            },
            Part {
                offset: 1024,
                length: 2,
            },
        ],
        length: 2000,
    };
    let v0: &[(&str, &[u8])] = &[
        ("GNU.sparse.size", b"2000"),
        ("GNU.sparse.offset", b"512"),
        ("GNU.sparse.numbytes", b"3"),
        ("GNU.sparse.offset", b"1024"),
        ("GNU.sparse.numbytes", b"2"),
    ];
    let v01: &[(&str, &[u8])] = &[
        ("GNU.sparse.size", b"2000"),
        ("GNU.sparse.name", b"f"),
        ("GNU.sparse.map", b"512,3,1024,2"),
    ];
    for pax in [v0, v01] {
        let entries = sparse(pax, b"abcde").unwrap();
        assert_eq!(
            (&entries[0].0.kind, entries[0].1.as_slice()),
            (&expected, b"abcde".as_slice())
        );
    }
    let v1: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"f"),
        ("GNU.sparse.realsize", b"2000"),
    ];
    let mut content = b"2\n512\n3\n1024\n2\n".to_vec();
    content.resize(512, 0);
    content.extend_from_slice(b"abcde");
    let entries = sparse(v1, &content).unwrap();
    assert_eq!(
        (&entries[0].0.kind, entries[0].1.as_slice()),
        (&expected, b"abcde".as_slice())
    );
    assert_eq!(entries[0].0.path, b"f");
    let overlapping: &[(&str, &[u8])] = &[
        ("GNU.sparse.size", b"2000"),
        ("GNU.sparse.map", b"512,3,513,2"),
    ];
    assert!(matches!(
        sparse(overlapping, b"abcde"),
        Err(TarError::Sparse(_))
    ));
    let endless: &[(&str, &[u8])] = &[
        ("GNU.sparse.size", b"9"),
        ("GNU.sparse.map", b"18446744073709551615,5"),
    ];
    assert!(matches!(
        sparse(endless, b"abcde"),
        Err(TarError::Sparse(_))
    ));
}

#[test]
fn extensions_are_bounded_before_they_are_read() {
    let mut header = ::tar::Header::new_gnu();
    header.set_entry_type(::tar::EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let error = all(header.as_bytes()).unwrap_err();
    assert!(matches!(error, TarError::Extension(_)), "{error}");
}

#[test]
fn noise_is_not_a_tar() {
    assert!(matches!(
        all(&[b'x'; 512]),
        Err(TarError::Number(_) | TarError::Checksum(0))
    ));
    assert!(matches!(all(&[b'7'; 512]), Err(TarError::Checksum(0))));
    assert!(matches!(all(b"short"), Err(TarError::Truncated)));
    assert!(all(b"").unwrap().is_empty());
}

proptest! {
    /// Whatever is wrong with a tar, reading it ends and does not panic.
    #[test]
    fn any_damage_is_survived(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        fix in any::<bool>(),
    ) {
        let pax: &[(&str, &[u8])] = &[("path", b"p"), ("GNU.sparse.map", b"0,3"), ("GNU.sparse.size", b"3")];
        let mut bytes = [file("a", b"abc", pax), file("b/c", &[7; 600], &[])].concat();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if fix {
            // Right checksums let damaged headers get further.
            for block in bytes.chunks_exact_mut(512) {
                if block[257..262] == *b"ustar" {
                    block[148..156].fill(b' ');
                    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
                    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                }
            }
        }
        let _ = all(&bytes);
    }

    /// Undamaged ones are read as the crate `tar` reads them.
    #[test]
    fn agrees_with_the_crate(
        files in proptest::collection::vec(("[a-z]{1,90}(/[a-z]{1,60}){0,4}", proptest::collection::vec(any::<u8>(), 0..1500)), 0..6)
    ) {
        let mut builder = builder();
        for (path, bytes) in &files {
            let mut header = ::tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, path, bytes.as_slice()).unwrap();
        }
        let ours = all(&builder.into_inner().unwrap()).unwrap();
        prop_assert_eq!(ours.len(), files.len());
        for ((entry, content), (path, bytes)) in ours.iter().zip(&files) {
            prop_assert_eq!(&entry.path, path.as_bytes());
            prop_assert_eq!(content, bytes);
        }
    }
}
