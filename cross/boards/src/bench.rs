//! A hub on the host's loopback and a card of the image that joins it: what
//! most tests begin with.

use crate::board::{Board, BoardError, Model, Setup, grow_card};
use crate::firmware;
use skerry_hub::demo::image;
use skerry_tests::{Hub, Scratch};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a board may take for anything: an emulated one on a busy machine
/// is slow.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// Bytes of the card: a power of two, as QEMU wants of an SD card.
const CARD_BYTES: u64 = 256 << 20;

/// A file that `cross/boards/run` has made, named by the environment.
pub fn prepared(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).map(PathBuf::from);
    let path = path
        .unwrap_or_else(|| panic!("{variable} is not set: run the tests with cross/boards/run"));
    assert!(path.exists(), "{variable}: {} is not there", path.display());
    path
}

/// A hub, a card, and a place for files.
pub struct Bench {
    /// Where things are.
    pub scratch: Scratch,
    /// The hub.
    pub hub: Hub,
    /// The card's image.
    pub card: PathBuf,
}

impl Bench {
    /// A hub with the test's images, and a fresh card for the board `name`.
    pub fn new(name: &str) -> Self {
        Self::with_hub_options(name, &[])
    }

    /// The same with more options for the hub.
    pub fn with_hub_options(name: &str, options: &[&str]) -> Self {
        let scratch = Scratch::new(&format!("board-{name}"));
        let broker = skerry_tests::fleet::free_address();
        let seen = format!("10.0.2.2:{}", broker.port());
        let mut hub = Hub::start_behind(
            &scratch,
            broker,
            &[&["--advertise", &seen], options].concat(),
        );
        import_images(&mut hub, &scratch);
        let card = scratch.path().join("card.img");
        new_card(&hub, &card, name);
        Self { scratch, hub, card }
    }

    /// How to start a board with this card.
    pub fn setup(&self, model: Model) -> Setup {
        let mut setup = Setup::new(model, &self.card);
        // No time server but one of ours, which is none.
        setup.more_cmdline = "skerry.ntp=10.0.2.2:9".into();
        setup
    }

    /// Gives a board power.
    pub fn boot(&self, model: Model) -> Result<Board, BoardError> {
        Board::boot(&self.setup(model))
    }

    /// Checks the data partition as it lies on the card: replays the journal in
    /// a copy, then looks for anything that is wrong. The error is what is.
    pub fn check_data(&self) -> Result<(), String> {
        let copy = self.scratch.path().join("data.img");
        let (at, bytes) = firmware::partition(&self.card, 4).map_err(|e| e.to_string())?;
        let mebibyte = 1 << 20;
        let cut = Command::new("dd")
            .arg(format!("if={}", self.card.display()))
            .arg(format!("of={}", copy.display()))
            .args(["bs=1M", "conv=sparse", "status=none"])
            .arg(format!("skip={}", at / mebibyte))
            .arg(format!("count={}", bytes / mebibyte))
            .status();
        assert!(
            cut.is_ok_and(|status| status.success()),
            "dd copies the partition"
        );
        // A power cut leaves a journal to replay; what is left then must be
        // clean: 1 means that something else had to be mended.
        let replay = Command::new("e2fsck")
            .args(["-p", "-E", "journal_only"])
            .arg(&copy)
            .output();
        let replay = replay.expect("e2fsck runs (package e2fsprogs)");
        let check = Command::new("e2fsck")
            .args(["-f", "-n"])
            .arg(&copy)
            .output();
        let check = check.expect("e2fsck runs");
        let text = |output: &[u8]| String::from_utf8_lossy(output).into_owned();
        match check.status.code() {
            Some(0) => Ok(()),
            other => Err(format!(
                "e2fsck -fn says {other:?}:\n{}{}",
                text(&replay.stdout),
                text(&check.stdout)
            )),
        }
    }
}

/// A card of the image for the device `name`, made by `skerry flash`.
pub fn new_card(hub: &Hub, card: &Path, name: &str) {
    let image = prepared("SKERRY_BOARD_IMAGE");
    let (image, to) = (image.display().to_string(), card.display().to_string());
    hub.skerry(&["flash", &image, &to, "--name", name]);
    grow_card(card, CARD_BYTES).expect("the card grows");
}

/// Puts a file on the card's first partition.
pub fn write_boot_file(card: &Path, name: &str, bytes: &[u8]) {
    let (at, _) = firmware::partition(card, 1).expect("a first partition");
    let image = format!("{}@@{at}", card.display());
    if let Some((dir, _)) = name.rsplit_once('/') {
        // There already is as good.
        let _ = Command::new("mmd")
            .args(["-D", "s", "-i", &image, &format!("::{dir}")])
            .output();
    }
    let mut copy = Command::new("mcopy")
        .args(["-o", "-i", &image, "-", &format!("::{name}")])
        .stdin(Stdio::piped())
        .spawn()
        .expect("mcopy runs (package mtools)");
    copy.stdin
        .take()
        .expect("a pipe")
        .write_all(bytes)
        .expect("written");
    assert!(
        copy.wait().expect("waited").success(),
        "mcopy writes {name}"
    );
}

fn import_images(hub: &mut Hub, scratch: &Scratch) {
    for (variable, reference, path) in [
        ("SKERRY_BOARD_APP", "test/app:1", "bin/app"),
        ("SKERRY_BOARD_BUSYBOX", "test/busybox:1", "bin/busybox"),
    ] {
        let bytes = fs::read(prepared(variable)).expect("the program");
        let file = image::File {
            path,
            mode: 0o755,
            bytes: &bytes,
        };
        let archive = scratch.path().join("image.tar");
        let out = File::create(&archive).expect("a file");
        let entry = format!("/{path}");
        image::write_oci_archive_for(out, reference, "arm64", &[file], &[&entry])
            .expect("an image");
        hub.skerry(&["image", "import", &archive.display().to_string()]);
    }
}
