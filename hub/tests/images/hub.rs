//! A hub's store of blobs, and what is in it.

use skerry_hub::image::BlobStore;
use skerry_hub::model::Image;
use skerry_wire::Digest;
use std::io::Read;

pub struct Hub {
    pub dir: tempfile::TempDir,
    pub store: BlobStore,
}

impl Hub {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(dir.path().join("blobs")).unwrap();
        Self { dir, store }
    }

    pub fn blobs(&self) -> usize {
        self.store.list().unwrap().len()
    }

    /// Every blob that a record names is here, whole, with its digest.
    pub fn check(&self, record: &Image) {
        assert!(self.store.has(&record.digest));
        for platform in &record.platforms {
            let manifest = [(platform.manifest, platform.manifest_size)];
            for (digest, size) in platform.blobs.iter().copied().chain(manifest) {
                let mut bytes = Vec::new();
                let mut file = self.store.open_at(&digest, 0).unwrap();
                file.read_to_end(&mut bytes).unwrap();
                assert_eq!((Digest::of(&bytes), bytes.len() as u64), (digest, size));
            }
        }
    }
}

pub fn platforms(record: &Image) -> String {
    record
        .platforms
        .iter()
        .map(|p| p.platform.to_string())
        .collect::<Vec<_>>()
        .join(" ")
}

pub fn names(records: &[Image]) -> Vec<&str> {
    records.iter().map(|r| r.reference.as_str()).collect()
}
