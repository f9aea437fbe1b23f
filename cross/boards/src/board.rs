//! One board: a card, a QEMU process, a serial line.

use crate::console::Console;
use crate::firmware::{Boot, Firmware, FirmwareError};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the kernel says when it restarts for `reboot "0 tryboot"`.
const TRYBOOT: &str = "reboot: Restarting system with command '0 tryboot'";
/// How often it is looked whether QEMU has ended.
const LOOK: Duration = Duration::from_millis(50);

/// Why a board does not do as told.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// The card holds nothing to boot.
    #[error("the card does not boot")]
    Firmware(#[from] FirmwareError),
    /// QEMU does not start.
    #[error("qemu-system-aarch64 cannot be run (package qemu-system-arm)")]
    Qemu(#[source] io::Error),
    /// Its device tree gets no entropy.
    #[error("the device tree cannot be changed (package device-tree-compiler)")]
    Seed(#[source] io::Error),
    /// The card's file cannot be grown.
    #[error("the card {} cannot be prepared", path.display())]
    Card {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something was not said, or did not happen, in time.
    #[error("the board did not come to {wanted:?} in {} s; it said:\n{said}", patience.as_secs())]
    Late {
        /// What was waited for.
        wanted: String,
        /// How long.
        patience: Duration,
        /// The end of its console.
        said: String,
    },
}

/// Which board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// QEMU's own machine: virtio disk and network, a PCI watchdog.
    Virt,
    /// Raspberry Pi 3 B: its own device tree, SD card, network on USB.
    Raspi3b,
}

impl Model {
    /// What the machine is called by QEMU.
    pub fn name(self) -> &'static str {
        match self {
            Self::Virt => "virt",
            Self::Raspi3b => "raspi3b",
        }
    }

    /// The filters of `config.txt` that are open on it.
    fn sections(self) -> &'static [&'static str] {
        match self {
            Self::Virt => &[],
            Self::Raspi3b => &["pi3", "board-type=0x8"],
        }
    }

    fn device_tree(self) -> Option<&'static str> {
        match self {
            Self::Virt => None,
            // What the firmware looks for with `upstream_kernel=1`.
            Self::Raspi3b => Some("bcm2837-rpi-3-b.dtb"),
        }
    }

    /// The serial line that is read, and the machine with what is soldered on.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Virt => &[
                "-M",
                "virt",
                "-cpu",
                "cortex-a53",
                "-smp",
                "2",
                "-serial",
                "stdio",
                "-device",
                "i6300esb",
                "-device",
                "virtio-rng-pci",
            ],
            // The console is the second line, the small UART, as on the board.
            Self::Raspi3b => &["-M", "raspi3b", "-serial", "null", "-serial", "stdio"],
        }
    }

    /// What this emulation needs on the command line.
    fn cmdline(self) -> &'static str {
        match self {
            Self::Virt => "",
            // QEMU's model resets the moment that the watchdog is started.
            Self::Raspi3b => "skerry.watchdog=off",
        }
    }

    fn network(self) -> &'static str {
        match self {
            Self::Virt => "virtio-net-pci,netdev=n,romfile=",
            Self::Raspi3b => "usb-net,netdev=n",
        }
    }
}

/// What a card does with writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CardWrites {
    /// It takes them.
    Taken,
    /// It says from the start that it takes none: one way of a worn-out card.
    Locked,
    /// It gives an error for each: another.
    Failing,
}

impl CardWrites {
    /// The drive `d` of QEMU over the image of a card.
    fn drive(self, card: &Path) -> String {
        let card = card.display();
        match self {
            Self::Taken => format!("file={card},format=raw,if=none,id=d"),
            Self::Locked => format!("file={card},format=raw,if=none,id=d,readonly=on"),
            // 5 is EIO of the host.
            Self::Failing => format!(
                "driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename={card},file.inject-error.0.event=none,file.inject-error.0.iotype=write,file.inject-error.0.errno=5,if=none,id=d,werror=report"
            ),
        }
    }
}

/// How a board is to be started.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Which board.
    pub model: Model,
    /// The image on its card, read and written.
    pub card: PathBuf,
    /// What the card does with writes, on `virt`.
    pub card_writes: CardWrites,
    /// Memory of `virt`, in MiB; a Raspberry Pi 3 has 1024.
    pub memory_mib: u32,
    /// Whether it has a network. The guest reaches the host's loopback at
    /// 10.0.2.2.
    pub network: bool,
    /// A port of the host's loopback that leads to a port of the guest, as
    /// (host, guest), over TCP.
    pub forward: Option<(u16, u16)>,
    /// What its real-time clock says at the start, as QEMU's `-rtc base=`;
    /// `None` is the host's time. `raspi3b` has none and starts in 1970.
    pub clock: Option<String>,
    /// Added to the command line, as the firmware adds to it.
    pub more_cmdline: String,
    /// Whether its time is counted instead of taken: a nanosecond for each
    /// instruction, of all processors one after the other. The host's speed and
    /// load do not show then.
    pub counted: bool,
    /// Boots this instead of what the firmware would find on the card.
    pub boot: Option<Boot>,
}

impl Setup {
    /// A board with network and the right time.
    pub fn new(model: Model, card: impl Into<PathBuf>) -> Self {
        Self {
            model,
            card: card.into(),
            card_writes: CardWrites::Taken,
            memory_mib: 512,
            network: true,
            forward: None,
            clock: None,
            more_cmdline: String::new(),
            counted: false,
            boot: None,
        }
    }
}

/// A board under power. Dropping it cuts the power.
#[derive(Debug)]
pub struct Board {
    setup: Setup,
    scratch: tempfile::TempDir,
    console: Console,
    console_before: Console,
    process: Option<Child>,
    partition: u32,
}

/// Makes the card as large as `bytes`, which must be a power of two for an SD
/// card; the new part reads as zeros and takes no space.
pub fn grow_card(card: &Path, bytes: u64) -> Result<(), BoardError> {
    let error = |source| BoardError::Card {
        path: card.to_owned(),
        source,
    };
    let file = OpenOptions::new().write(true).open(card).map_err(error)?;
    let now = file.metadata().map_err(error)?.len();
    if now < bytes {
        file.set_len(bytes).map_err(error)?;
    }
    Ok(())
}

/// Puts entropy into a device tree, as a real Pi's firmware does: else the
/// kernel gathers some for two seconds before it gives any.
fn seed(tree: &Path) -> Result<(), BoardError> {
    let mut bytes = [0; 64];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(BoardError::Seed)?;
    let done = Command::new("fdtput")
        .args(["-t", "bx"])
        .arg(tree)
        .args(["/chosen", "rng-seed"])
        .args(bytes.iter().map(|byte| format!("{byte:02x}")))
        .status()
        .map_err(BoardError::Seed)?;
    match done.success() {
        true => Ok(()),
        false => Err(BoardError::Seed(io::Error::other("fdtput failed"))),
    }
}

impl Board {
    /// Gives it power.
    pub fn boot(setup: &Setup) -> Result<Self, BoardError> {
        let scratch = tempfile::tempdir().map_err(BoardError::Qemu)?;
        let mut board = Self {
            setup: setup.clone(),
            scratch,
            console: Console::default(),
            console_before: Console::default(),
            process: None,
            partition: 0,
        };
        board.start(false)?;
        Ok(board)
    }

    fn start(&mut self, tryboot: bool) -> Result<(), BoardError> {
        let setup = &self.setup;
        let model = setup.model;
        let boot = match &setup.boot {
            Some(boot) => boot.clone(),
            None => Firmware::new(&setup.card, self.scratch.path()).load(
                tryboot,
                model.sections(),
                model.device_tree(),
            )?,
        };
        let mut qemu = Command::new("qemu-system-aarch64");
        // Only TCG: where these tests run, KVM may be there and hang.
        match setup.counted {
            true => qemu.args(["-accel", "tcg,thread=single", "-icount", "shift=0"]),
            false => qemu.args(["-accel", "tcg,thread=multi"]),
        };
        qemu.args(["-display", "none", "-monitor", "none"]);
        qemu.args(["-no-reboot", "-nodefaults"])
            .args(model.arguments());
        match model {
            Model::Virt => {
                qemu.args(["-m", &setup.memory_mib.to_string()]);
                qemu.args(["-drive", &setup.card_writes.drive(&setup.card)]);
                qemu.args(["-device", "virtio-blk-pci,drive=d"]);
            }
            Model::Raspi3b => {
                let card = setup.card.display();
                qemu.args(["-drive", &format!("file={card},format=raw,if=sd")]);
            }
        }
        if setup.network {
            let forward = |(host, guest)| format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}");
            let forward = setup.forward.map(forward).unwrap_or_default();
            qemu.args(["-netdev", &format!("user,id=n{forward}")]);
            qemu.args(["-device", model.network()]);
        } else {
            qemu.args(["-nic", "none"]);
        }
        if let Some(clock) = &setup.clock {
            qemu.args(["-rtc", &format!("base={clock}")]);
        }
        qemu.arg("-kernel").arg(&boot.kernel);
        if let Some(initramfs) = &boot.initramfs {
            qemu.arg("-initrd").arg(initramfs);
        }
        if let Some(tree) = &boot.device_tree {
            seed(tree)?;
            qemu.arg("-dtb").arg(tree);
        }
        let mut cmdline = format!(
            "{} {} {}",
            boot.cmdline,
            model.cmdline(),
            setup.more_cmdline
        );
        if boot.partition != 0 {
            // A real firmware says this in the device tree.
            cmdline.push_str(&format!(" skerry.slot={}", boot.partition));
        }
        qemu.args(["-append", cmdline.trim()]);
        let mut process = qemu
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(BoardError::Qemu)?;
        let serial = process.stdout.take().expect("stdout is a pipe");
        self.console_before = std::mem::replace(&mut self.console, Console::read_from(serial));
        self.process = Some(process);
        self.partition = boot.partition;
        Ok(())
    }

    /// What it says; a new one from each start.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// What it said before its last start.
    pub fn console_before(&self) -> &Console {
        &self.console_before
    }

    /// The partition that it was started from.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// Whether it has not ended by itself.
    pub fn is_running(&mut self) -> bool {
        matches!(self.process.as_mut().map(Child::try_wait), Some(Ok(None)))
    }

    /// Waits for a line with this in it.
    pub fn wait_for(&self, wanted: &str, patience: Duration) -> Result<String, BoardError> {
        self.console
            .wait_for(wanted, patience)
            .ok_or_else(|| self.late(wanted, patience))
    }

    fn late(&self, wanted: &str, patience: Duration) -> BoardError {
        let text = self.console.text();
        let lines: Vec<&str> = text.lines().collect();
        let said = lines[lines.len().saturating_sub(60)..].join("\n");
        BoardError::Late {
            wanted: wanted.to_string(),
            patience,
            said,
        }
    }

    /// Takes its power away, at once.
    pub fn cut_power(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Gone already is as good.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Gives power again after [`Board::cut_power`].
    pub fn power_on(&mut self) -> Result<(), BoardError> {
        self.cut_power();
        self.start(false)
    }

    /// The same with the firmware's one-shot flag set.
    pub fn power_on_for_trial(&mut self) -> Result<(), BoardError> {
        self.cut_power();
        self.start(true)
    }

    /// Waits until it resets itself, and starts it as its firmware would: with
    /// the one-shot flag if it asked for that. Returns whether it did.
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's own thread, which waits for a process to end"
    )]
    pub fn wait_for_reset(&mut self, patience: Duration) -> Result<bool, BoardError> {
        let deadline = Instant::now() + patience;
        while self.is_running() {
            if Instant::now() > deadline {
                return Err(self.late("a reset", patience));
            }
            std::thread::sleep(LOOK);
        }
        self.cut_power();
        let tryboot = self.console.text().contains(TRYBOOT);
        self.start(tryboot)?;
        Ok(tryboot)
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.cut_power();
    }
}
