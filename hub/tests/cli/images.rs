//! Images.

use crate::common::*;
use crate::fleet::Fleet;
use crate::program::say_with_input;
use std::path::PathBuf;

#[test]
fn images_travel_as_files_streams_and_directories() {
    run(|executor| async move {
        let fleet = Fleet::start(&executor).await;
        let file = fleet.file("image.tar", "an archive of any length");
        let said = fleet
            .say(&["image", "import", &file, "--name", "demo/a:1"])
            .await
            .ok();
        assert!(said.starts_with("image/demo/a:1 imported ("), "{said}");
        let said = say_with_input(fleet.data(), &["image", "import", "-"], "by pipe").await;
        assert!(said.ok().starts_with("image/imported:1 imported ("));
        let layout = fleet.data().join("layout");
        std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        fleet
            .say(&["image", "import", layout.to_str().unwrap()])
            .await
            .fails(1, "is no OCI layout: it has no file oci-layout");
        std::fs::write(layout.join("oci-layout"), "{}").unwrap();
        std::fs::write(layout.join("blobs/sha256/00"), "blob").unwrap();
        fleet
            .say(&[
                "image",
                "import",
                layout.to_str().unwrap(),
                "--name",
                "demo/dir:1",
            ])
            .await
            .ok();
        {
            let blobs = fleet.images.blobs.lock().unwrap();
            let packed = blobs
                .values()
                .find(|b| b.windows(10).any(|w| w == b"oci-layout"))
                .expect("the directory came as a tar");
            let mut tar = tar::Archive::new(packed.as_slice());
            let names: Vec<PathBuf> = tar
                .entries()
                .unwrap()
                .map(|e| e.unwrap().path().unwrap().into_owned())
                .collect();
            assert!(
                names.iter().any(|n| n.ends_with("blobs/sha256/00")),
                "{names:?}"
            );
        }
        fleet
            .say(&["image", "pull", "Bad Name"])
            .await
            .fails(2, "is not an image name");
        fleet
            .say(&["image", "pull", "missing:1"])
            .await
            .fails(1, "missing:1");
        fleet.server.stop().await.unwrap();
    });
}
