//! Kernel modules: which there are, what they depend on, and who wants them.
//!
//! Reads `modules.dep` and `modules.alias` as `depmod` writes them. The kernel
//! itself asks through `/sbin/modprobe`, which is this program; devices ask
//! with the `modalias` that they carry.

use super::sys;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Longest file of module names; Debian's whole kernel has 1.2 MB of aliases.
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;

/// The modules of the running kernel.
#[derive(Debug, Default)]
pub struct Modules {
    root: PathBuf,
    /// By name: its file, and those that go before it, in order of loading.
    files: BTreeMap<String, Vec<String>>,
    /// Pattern and module; `None` until a wish is not the name of a module.
    aliases: Option<Vec<(String, String)>>,
    /// What was asked for already, so that a second asking costs nothing.
    asked: BTreeSet<String>,
}

/// `-` and `_` are the same in a module's name.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    plain(file.split('.').next().unwrap_or_default())
}

/// Whether `pattern`, in which `*`, `?` and `[...]` mean what they do in a
/// shell, is all of `text`.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on after the last star: pattern, text.
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'[') if t < text.len() => {
                let end = pattern[p..].iter().position(|b| *b == b']').map(|n| p + n);
                end.filter(|end| in_set(&pattern[p + 1..*end], text[t]))
                    .map(|end| end + 1)
            }
            Some(b'?') if t < text.len() => Some(p + 1),
            Some(byte) => (text.get(t) == Some(byte)).then_some(p + 1),
            None if t == text.len() => return true,
            None => None,
        };
        match (step, star) {
            (Some(next), _) => {
                p = next;
                t += 1;
            }
            (None, Some((after, from))) if from < text.len() => {
                star = Some((after, from + 1));
                p = after;
                t = from + 1;
            }
            (None, _) => return false,
        }
    }
}

fn in_set(set: &[u8], byte: u8) -> bool {
    let mut rest = set;
    loop {
        match rest {
            [first, b'-', last, after @ ..] => {
                if (*first..=*last).contains(&byte) {
                    return true;
                }
                rest = after;
            }
            [first, after @ ..] => {
                if *first == byte {
                    return true;
                }
                rest = after;
            }
            [] => return false,
        }
    }
}

fn bounded(path: &Path) -> io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    File::open(path)?
        .take(MAX_FILE_BYTES)
        .read_to_string(&mut text)?;
    Ok(text)
}

impl Modules {
    /// Those of the running kernel below `/lib/modules`.
    pub fn of_this_kernel() -> io::Result<Self> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let root = Path::new("/lib/modules").join(release.trim());
        let dependencies = bounded(&root.join("modules.dep"))?;
        Ok(Self::parse(&root, &dependencies))
    }

    fn parse(root: &Path, dependencies: &str) -> Self {
        let mut modules = Self {
            root: root.to_owned(),
            ..Self::default()
        };
        for line in dependencies.lines() {
            let Some((file, needs)) = line.split_once(':') else {
                continue;
            };
            // The file names the nearest first: loading goes backwards.
            let mut order: Vec<String> =
                needs.split_ascii_whitespace().map(str::to_string).collect();
            order.reverse();
            order.push(file.to_string());
            modules.files.insert(name_of(file), order);
        }
        modules
    }

    fn parse_aliases(text: &str) -> Vec<(String, String)> {
        let mut aliases = Vec::new();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            if let (Some("alias"), Some(pattern), Some(module)) =
                (words.next(), words.next(), words.next())
            {
                aliases.push((plain(pattern), plain(module)));
            }
        }
        aliases
    }

    /// The modules that answer to a name or an alias.
    fn found(&mut self, wanted: &str) -> Vec<String> {
        let wanted = plain(wanted);
        if self.files.contains_key(&wanted) {
            return vec![wanted];
        }
        // The kernel asks for a file system so.
        if let Some(name) = wanted.strip_prefix("fs_")
            && self.files.contains_key(name)
        {
            return vec![name.to_string()];
        }
        let aliases = self.aliases.get_or_insert_with(|| {
            let text = bounded(&self.root.join("modules.alias")).unwrap_or_default();
            Self::parse_aliases(&text)
        });
        let hits = aliases.iter().filter(|(pattern, _)| {
            // Most do not even begin alike; that is cheap to see.
            let head = pattern.bytes().zip(wanted.bytes()).next();
            let alike = head.is_none_or(|(a, b)| a == b || b"*?[".contains(&a));
            alike && matches(pattern.as_bytes(), wanted.as_bytes())
        });
        hits.map(|(_, module)| module.clone()).collect()
    }

    /// Loads what answers to a name or an alias, with all that it needs. What
    /// is built in or not there at all is no error: there is nothing to load.
    /// Returns the modules that were loaded now.
    pub fn load(&mut self, wanted: &str) -> Vec<String> {
        if !self.asked.insert(wanted.to_string()) {
            return Vec::new();
        }
        let mut loaded = Vec::new();
        for module in self.found(wanted) {
            for file in self.files.get(&module).cloned().unwrap_or_default() {
                if !self.asked.insert(file.clone()) {
                    continue;
                }
                let path = self.root.join(&file);
                match File::open(&path).and_then(|file| sys::load_module(&file)) {
                    Ok(()) => loaded.push(name_of(&file)),
                    // ENODEV: the driver found that its hardware is not there.
                    Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                    Err(error) => super::say::trouble(&format!(
                        "module {} cannot be loaded: {error}",
                        path.display()
                    )),
                }
            }
        }
        loaded
    }

    /// Loads what the devices want that are there now. Returns how many
    /// modules were loaded.
    pub fn load_for_devices(&mut self) -> usize {
        let mut wanted = BTreeSet::new();
        let buses = fs::read_dir("/sys/bus").into_iter().flatten().flatten();
        for bus in buses {
            let devices = fs::read_dir(bus.path().join("devices"));
            for device in devices.into_iter().flatten().flatten() {
                if let Ok(alias) = fs::read_to_string(device.path().join("modalias")) {
                    wanted.insert(alias.trim().to_string());
                }
            }
        }
        let loaded = wanted
            .iter()
            .filter(|alias| !alias.is_empty())
            .map(|alias| self.load(alias).len());
        loaded.sum()
    }
}

/// A name for [`modprobe`]: whatever the devices want that are there.
pub const FOR_DEVICES: &str = "@devices";

/// `modprobe [-q] [--] NAME...` for the kernel, and for ourselves. Returns the
/// exit status.
pub fn modprobe(args: &[String]) -> i32 {
    let Ok(mut modules) = Modules::of_this_kernel() else {
        return 1;
    };
    for name in args.iter().filter(|arg| !arg.starts_with('-')) {
        if name == FOR_DEVICES {
            while modules.load_for_devices() > 0 {}
        } else {
            modules.load(name);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_a_shells() {
        for (pattern, text, expected) in [
            ("virtio:d00000001v*", "virtio:d00000001v00001AF4", true),
            ("virtio:d00000001v*", "virtio:d00000002v00001AF4", false),
            (
                "of:N*T*Cbrcm,bcm2835_sdhost",
                "of:NmmcT(null)Cbrcm,bcm2835_sdhost",
                true,
            ),
            (
                "of:N*T*Cbrcm,bcm2835_sdhost",
                "of:NmmcT(null)Cbrcm,bcm2835_sdhostX",
                false,
            ),
            (
                "usb:v0525pA4A[1-2]d*ic02*",
                "usb:v0525pA4A2d0000dc02ic02isc06",
                true,
            ),
            (
                "usb:v0525pA4A[1-2]d*ic02*",
                "usb:v0525pA4A3d0000dc02ic02isc06",
                false,
            ),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("[ab", "a", false),
        ] {
            let found = matches(pattern.as_bytes(), text.as_bytes());
            assert_eq!(found, expected, "{pattern} {text}");
        }
    }

    #[test]
    fn loading_goes_from_the_furthest_need() {
        let dep = "kernel/net/net.ko: kernel/a/near.ko kernel/a/far-away.ko\nkernel/a/near.ko:\n";
        let alias = "# comment\nalias virtio:d1v* net\nalias fs-thing near\n";
        let mut modules = Modules::parse(Path::new("/m"), dep);
        modules.aliases = Some(Modules::parse_aliases(alias));
        let order = &modules.files["net"];
        assert_eq!(
            order[..],
            [
                "kernel/a/far-away.ko",
                "kernel/a/near.ko",
                "kernel/net/net.ko"
            ]
        );
        assert_eq!(modules.found("virtio:d1v5"), ["net"]);
        assert_eq!(modules.found("fs-thing"), ["near"]);
        assert_eq!(modules.found("near"), ["near"]);
        assert!(modules.found("pci:v1").is_empty());
    }
}
