//! What is put onto a card: the operator's wishes, checked, and the files that
//! carry them to the first boot.

use crate::zone;
use skerry_wire::DeviceId;
use std::num::NonZeroU32;
use std::str::FromStr;

/// Longest name of a Wi-Fi network, in bytes (IEEE 802.11).
const MAX_SSID_BYTES: usize = 32;
/// Longest password of a Wi-Fi network, in bytes; one more are the digits of a
/// key (IEEE 802.11).
const MAX_PASSPHRASE_BYTES: usize = 63;
/// Rounds that make a Wi-Fi's key of its password (IEEE 802.11, annex J.4).
const PSK_ROUNDS: NonZeroU32 = NonZeroU32::new(4096).expect("not zero");
/// Longest name of a user (useradd).
const MAX_USER_BYTES: usize = 32;
/// Longest host name (POSIX, Linux: 64; a label of DNS: 63).
const MAX_HOST_BYTES: usize = 63;
/// Characters of something typed that a message repeats.
const MAX_SHOWN_CHARS: usize = 80;
/// Rounds of SHA-512 crypt: about half a second of a Raspberry Pi Zero for
/// each login, ten times what crypt takes when it is not told.
const HASH_ROUNDS: u32 = 50_000;
/// The script of the first boot. "firstboot" on a command line makes Raspberry
/// Pi OS 12 grow its root partition at every start.
pub const SCRIPT: &str = "setup.sh";
/// What in a name stands for the board's serial number or MAC address.
const SERIAL: &str = "{serial}";
/// What in a name stands for a number that the hub gives.
const NUMBER: &str = "{n}";

/// What somebody typed that cannot be used, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub String);

fn unusable<T>(text: impl Into<String>) -> Result<T, Unusable> {
    Err(Unusable(text.into()))
}

/// A device's name before there is a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// `kiosk-7`.
    Fixed(DeviceId),
    /// `kiosk-{n}`: all ask for `kiosk`, the hub numbers them as they join;
    /// the host's own name ends in the serial number.
    Numbered(String),
    /// `kiosk-{serial}`: the board's serial number, or a MAC address, in it.
    Serial(String, String),
}

impl FromStr for Name {
    type Err = Unusable;

    fn from_str(text: &str) -> Result<Self, Unusable> {
        let remedy = "use a-z, 0-9 and '-', as in kiosk-7, kiosk-{n} or kiosk-{serial}";
        let fits = |sample: String| sample.len() <= MAX_HOST_BYTES && DeviceId::new(sample).is_ok();
        if let Some(base) = text.strip_suffix(NUMBER) {
            let base = base.trim_end_matches('-');
            if fits(format!("{base}-00000000")) {
                return Ok(Self::Numbered(base.into()));
            }
        } else if let Some((head, tail)) = text.split_once(SERIAL) {
            if fits(format!("{head}0123456789abcdef{tail}")) {
                return Ok(Self::Serial(head.into(), tail.into()));
            }
        } else if let (Ok(id), true) = (DeviceId::new(text), fits(text.into())) {
            return Ok(Self::Fixed(id));
        }
        unusable(format!("'{text}' cannot be a device's name: {remedy}"))
    }
}

impl Name {
    /// Whether several devices may have it.
    pub fn is_for_many(&self) -> bool {
        !matches!(self, Self::Fixed(_))
    }

    /// The host name; `@SERIAL@` is filled in on the board.
    fn host(&self) -> String {
        match self {
            Self::Fixed(id) => id.to_string(),
            Self::Numbered(base) => format!("{base}-@SERIAL@"),
            Self::Serial(head, tail) => format!("{head}@SERIAL@{tail}"),
        }
    }

    /// What the agent asks the hub for.
    fn wish(&self) -> String {
        match self {
            Self::Fixed(id) => id.to_string(),
            Self::Numbered(base) => base.clone(),
            Self::Serial(..) => self.host(),
        }
    }

    /// For people.
    pub fn shown(&self) -> String {
        match self {
            Self::Fixed(id) => id.to_string(),
            Self::Numbered(base) => format!("{base}, {base}-2, ... as they join"),
            Self::Serial(head, tail) => format!("{head}<serial number>{tail}"),
        }
    }
}

/// A Wi-Fi network.
#[derive(Clone, PartialEq, Eq)]
pub struct Wifi {
    ssid: String,
    password: Option<String>,
    country: Option<String>,
    hidden: bool,
}

impl std::fmt::Debug for Wifi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wifi")
            .field("ssid", &self.ssid)
            .finish_non_exhaustive()
    }
}

impl Wifi {
    /// Checks lengths and characters; without a password the network is open.
    pub fn new(
        ssid: String,
        password: Option<String>,
        country: Option<String>,
        hidden: bool,
    ) -> Result<Self, Unusable> {
        if ssid.is_empty() || ssid.len() > MAX_SSID_BYTES || ssid.chars().any(char::is_control) {
            return unusable(format!(
                "'{ssid}' cannot be a Wi-Fi network's name: it has 1 to 32 bytes"
            ));
        }
        if let Some(password) = &password {
            let printable = password.bytes().all(|b| (0x20..0x7f).contains(&b));
            let key = password.len() == 64 && password.bytes().all(|b| b.is_ascii_hexdigit());
            let long = (8..=MAX_PASSPHRASE_BYTES).contains(&password.len());
            if !(key || printable && long) {
                return unusable(
                    "the Wi-Fi password must have 8 to 63 ASCII characters (or be the 64 hexadecimal digits of a key)",
                );
            }
        }
        let country = country.map(|c| c.to_ascii_uppercase());
        if let Some(code) = country
            .as_ref()
            .filter(|c| c.len() != 2 || !c.bytes().all(|b| b.is_ascii_uppercase()))
        {
            return unusable(format!(
                "'{code}' is not a country: give its two letters, as in --wifi-country DE"
            ));
        }
        Ok(Self {
            ssid,
            password,
            country,
            hidden,
        })
    }

    /// Its name.
    pub fn ssid(&self) -> &str {
        &self.ssid
    }

    /// Where it is used, for its channels and power.
    pub fn country(&self) -> Option<&str> {
        self.country.as_deref()
    }

    /// NetworkManager's keyfile (nm-settings-keyfile(5)).
    fn network_manager(&self) -> String {
        // GKeyFile: '\' escapes; a space in front would be dropped; ';' would
        // make a list of bytes of an SSID.
        let value = |text: &str| {
            let mut out = text.replace('\\', "\\\\").replace(';', "\\;");
            if out.starts_with(' ') {
                out.replace_range(..1, "\\s");
            }
            out
        };
        let mut text = format!(
            "[connection]\nid=skerry-wifi\ntype=wifi\nautoconnect=true\n\n[wifi]\nmode=infrastructure\nssid={}\nhidden={}\n\n",
            value(&self.ssid),
            self.hidden
        );
        if let Some(password) = &self.password {
            let password = value(password).replace("\\;", ";");
            text.push_str(&format!(
                "[wifi-security]\nkey-mgmt=wpa-psk\npsk={password}\n\n"
            ));
        }
        text + "[ipv4]\nmethod=auto\n\n[ipv6]\nmethod=auto\n"
    }

    /// netplan's YAML; JSON strings are YAML strings.
    fn netplan(&self) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut point = String::new();
        if self.hidden {
            point.push_str("          hidden: true\n");
        }
        if let Some(password) = &self.password {
            point.push_str(&format!("          password: {}\n", quoted(password)));
        }
        let country = self
            .country
            .as_ref()
            .map(|c| format!("      regulatory-domain: \"{c}\"\n"));
        let head = format!("        {}:", quoted(&self.ssid));
        let access = if point.is_empty() {
            format!("{head} {{}}\n")
        } else {
            format!("{head}\n{point}")
        };
        format!(
            "network:\n  version: 2\n  wifis:\n    wlan0:\n      dhcp4: true\n      optional: true\n{}      access-points:\n{access}",
            country.unwrap_or_default()
        )
    }

    /// The key that the password stands for, as hexadecimal digits
    /// (IEEE 802.11, annex J.4: PBKDF2 with the network's name as salt).
    fn key(&self, password: &str) -> String {
        if password.len() == MAX_PASSPHRASE_BYTES + 1 {
            return password.into();
        }
        let mut key = [0; 32];
        ring::pbkdf2::derive(
            ring::pbkdf2::PBKDF2_HMAC_SHA1,
            PSK_ROUNDS,
            self.ssid.as_bytes(),
            password.as_bytes(),
            &mut key,
        );
        super::hex(&key)
    }

    /// wpa_supplicant's configuration (wpa_supplicant.conf(5)). Name and key as
    /// hexadecimal digits: it knows no escapes between quotes, and takes what
    /// follows a '#' behind one for a comment.
    fn wpa_supplicant(&self) -> String {
        let country = self.country.as_ref().map(|c| format!("country={c}\n"));
        let key = match &self.password {
            Some(password) => format!("    psk={}\n", self.key(password)),
            None => "    key_mgmt=NONE\n".into(),
        };
        format!(
            "ctrl_interface=DIR=/run/wpa_supplicant\n{}network={{\n    ssid={}\n    scan_ssid={}\n{key}}}\n",
            country.unwrap_or_default(),
            super::hex(self.ssid.as_bytes()),
            u8::from(self.hidden)
        )
    }
}

/// Somebody who may log in.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    name: String,
    /// As in `/etc/shadow`; `None` is no login by password.
    hash: Option<String>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("User").field(&self.name).finish()
    }
}

impl User {
    /// Hashes the password (SHA-512 crypt): it never gets onto the card.
    pub fn new(name: String, password: Option<&str>) -> Result<Self, Unusable> {
        let first = name
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
        let rest = name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b));
        if !first || !rest || name.len() > MAX_USER_BYTES {
            return unusable(format!(
                "'{name}' cannot be a user's name: use a-z, 0-9, '_' and '-', at most 32, a letter first"
            ));
        }
        if name == "root" && password.is_some() {
            return unusable(
                "a password for root is an invitation: give --user NAME, who gets sudo, or an ssh key",
            );
        }
        let hash = match password {
            None => None,
            Some(text) if text.is_empty() || text.chars().any(char::is_control) => {
                return unusable("the user's password is empty or has control characters");
            }
            Some(text) => Some(hash(text)?),
        };
        Ok(Self { name, hash })
    }

    /// Their name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn hash(password: &str) -> Result<String, Unusable> {
    use sha_crypt::{Algorithm, Params, PasswordHasher, ShaCrypt};
    let mut salt = [0; 12];
    getrandom::fill(&mut salt).map_err(|e| Unusable(format!("no random numbers: {e}")))?;
    let params = Params::new(HASH_ROUNDS).expect("within crypt's 1000 to 999999999");
    let hash = ShaCrypt::new(Algorithm::Sha512Crypt, params)
        .hash_password_with_salt(password.as_bytes(), &salt)
        .map_err(|e| Unusable(format!("the password cannot be hashed: {e}")))?;
    Ok(hash.to_string())
}

/// Checks one line of a public key file; comments and empty lines are `None`.
pub fn ssh_key(line: &str) -> Result<Option<String>, Unusable> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    if line.contains("PRIVATE KEY") {
        return unusable("that is a private key: give the public one, which ends in .pub");
    }
    let known = [
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-",
        "sk-ssh-ed25519",
        "sk-ecdsa-sha2-",
    ];
    let mut words = line.split_whitespace();
    let kind_ok = words
        .next()
        .is_some_and(|w| known.iter().any(|k| w.starts_with(k)));
    let data_ok = words.next().is_some_and(|w| w.starts_with("AAAA"));
    if !kind_ok || !data_ok || line.chars().any(char::is_control) {
        return unusable(
            "not an ssh public key: it starts with ssh-ed25519, ssh-rsa or ecdsa-sha2-",
        );
    }
    Ok(Some(line.into()))
}

/// The time zone of that name, in any case, as the image has it.
pub fn time_zone(text: &str) -> Result<String, Unusable> {
    if let Some(name) = zone::name(text) {
        return Ok(name.into());
    }
    let shown: String = text.chars().take(MAX_SHOWN_CHARS).collect();
    unusable(format!(
        "there is no time zone '{shown}': {}",
        zone::remedy(&shown)
    ))
}

/// Everything that goes onto a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What lets the board join.
    pub join_token: String,
    /// What it is to be called; as the image says when absent.
    pub name: Option<Name>,
    /// Its Wi-Fi.
    pub wifi: Option<Wifi>,
    /// Public keys that may log in: as the user, else as root.
    pub ssh_keys: Vec<String>,
    /// Whether logging in by ssh is switched on.
    pub ssh: bool,
    /// Its time zone.
    pub time_zone: Option<String>,
    /// Who may log in.
    pub user: Option<User>,
}

/// A file for the first boot.
#[derive(Clone, PartialEq, Eq)]
pub struct Extra {
    /// Its name in the directory.
    pub name: &'static str,
    /// What is in it.
    pub bytes: Vec<u8>,
    /// Its mode, where the file system has modes.
    pub mode: u32,
}

impl Settings {
    /// The agent's own settings.
    pub fn agent_yaml(&self) -> String {
        let mut text = String::from("# Written by 'skerry flash'.\n");
        if let Some(name) = &self.name {
            text.push_str(&format!("name: \"{}\"\n", name.wish()));
        }
        text + &format!("joinToken: \"{}\"\n", self.join_token)
    }

    /// What a minimal image of ours cannot be told, by the flag's name.
    pub fn beyond_minimal(&self) -> Vec<&'static str> {
        let mut flags = Vec::new();
        if self.wifi.is_some() {
            flags.push("--wifi");
        }
        if self.ssh {
            flags.push("--ssh/--ssh-key");
        }
        if self.time_zone.is_some() {
            flags.push("--time-zone");
        }
        if self.user.is_some() {
            flags.push("--user");
        }
        if matches!(self.name, Some(Name::Serial(..))) {
            flags.push("{serial} in --name");
        }
        flags
    }

    /// The files of the first boot, the agent's program aside.
    pub fn files(&self) -> Vec<Extra> {
        let file = |name, text: String| Extra {
            name,
            bytes: text.into_bytes(),
            mode: 0o600,
        };
        let mut shell = String::from("# Written by 'skerry flash', read by setup.sh.\n");
        let mut set = |key: &str, value: &str| {
            shell.push_str(&format!("{key}='{}'\n", value.replace('\'', "'\\''")));
        };
        if let Some(name) = &self.name {
            set("HOST", &name.host());
        }
        if let Some(zone) = &self.time_zone {
            set("TIME_ZONE", zone);
        }
        if let Some(user) = &self.user {
            set("LOGIN", &user.name);
            set("LOGIN_HASH", user.hash.as_deref().unwrap_or("*"));
        }
        if self.ssh {
            set("SSH", "1");
        }
        let mut files = vec![
            Extra {
                name: SCRIPT,
                bytes: include_bytes!("setup.sh").to_vec(),
                mode: 0o700,
            },
            Extra {
                name: "skerry-agent.service",
                bytes: include_bytes!("../../../configs/systemd/skerry-agent.service").to_vec(),
                mode: 0o644,
            },
            Extra {
                name: "skerry.slice",
                bytes: include_bytes!("../../../configs/systemd/skerry.slice").to_vec(),
                mode: 0o644,
            },
            Extra {
                name: "apparmor-profile",
                bytes: include_bytes!("../../../configs/apparmor/skerry-default").to_vec(),
                mode: 0o644,
            },
            file("settings.sh", shell),
            file("agent.yaml", self.agent_yaml()),
        ];
        if !self.ssh_keys.is_empty() {
            files.push(file("authorized_keys", self.ssh_keys.join("\n") + "\n"));
        }
        if let Some(wifi) = &self.wifi {
            files.push(file("wifi.nmconnection", wifi.network_manager()));
            files.push(file("wifi.netplan.yaml", wifi.netplan()));
            files.push(file("wifi.wpa.conf", wifi.wpa_supplicant()));
        }
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_for_one_or_for_many() {
        let name = |text: &str| text.parse::<Name>();
        assert!(!name("kiosk-7").unwrap().is_for_many());
        let numbered = name("kiosk-{n}").unwrap();
        assert_eq!(
            (numbered.wish(), numbered.host()),
            ("kiosk".into(), "kiosk-@SERIAL@".into())
        );
        let serial = name("k-{serial}").unwrap();
        assert_eq!(serial.wish(), "k-@SERIAL@");
        for wrong in [
            "",
            "Kiosk",
            "a b",
            "{n}",
            "x{serial}{serial}",
            "a/b",
            "k-{m}",
        ] {
            let error = name(wrong).unwrap_err().to_string();
            assert!(error.contains("kiosk-{serial}"), "{wrong}: {error}");
        }
    }

    #[test]
    fn wifi_is_checked_and_quoted_for_each_of_three_readers() {
        let wifi = Wifi::new(
            "a\\b;\"c".into(),
            Some("pass;\\ \"word'".into()),
            Some("de".into()),
            true,
        )
        .unwrap();
        let nm = wifi.network_manager();
        assert!(
            nm.contains("ssid=a\\\\b\\;\"c\n") && nm.contains("psk=pass;\\\\ \"word'\n"),
            "{nm}"
        );
        let plan = wifi.netplan();
        assert!(
            plan.contains("\"a\\\\b;\\\"c\":\n") && plan.contains("regulatory-domain: \"DE\""),
            "{plan}"
        );
        assert!(wifi.wpa_supplicant().contains("ssid=615c623b2263\n"));
        // The standard's own example (annex J.4.2), as wpa_passphrase has it.
        let example = Wifi::new("IEEE".into(), Some("password".into()), None, false).unwrap();
        assert!(
            example
                .wpa_supplicant()
                .contains("psk=f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e\n")
        );
        for (ssid, password, country) in [
            ("", None, None),
            ("x", Some("short"), None),
            ("x", None, Some("DEU")),
            ("a\nb", None, None),
        ] {
            let result = Wifi::new(
                ssid.into(),
                password.map(Into::into),
                country.map(Into::into),
                false,
            );
            assert!(result.is_err(), "{ssid:?}");
        }
    }

    #[test]
    fn a_password_becomes_a_hash_that_crypt_knows() {
        let user = User::new("anna".into(), Some("correct horse")).unwrap();
        assert!(
            user.hash
                .as_ref()
                .is_some_and(|h| h.starts_with("$6$") && h.len() > 90)
        );
        assert!(User::new("Anna".into(), None).is_err());
        assert!(User::new("root".into(), Some("x")).is_err());
    }

    #[test]
    fn keys_and_zones_have_a_form() {
        assert!(ssh_key("ssh-ed25519 AAAAC3 me@here").unwrap().is_some());
        assert!(ssh_key("# note").unwrap().is_none());
        assert!(
            ssh_key("-----BEGIN OPENSSH PRIVATE KEY-----")
                .unwrap_err()
                .0
                .contains(".pub")
        );
        assert_eq!(time_zone("Europe/Berlin").unwrap(), "Europe/Berlin");
        assert_eq!(time_zone("europe/berlin").unwrap(), "Europe/Berlin");
        for (wrong, remedy) in [
            ("Europe/Berln", "did you mean Europe/Berlin?"),
            ("../../etc/passwd", "write its IANA name"),
            ("Mars/Olympus", "write its IANA name"),
        ] {
            let why = time_zone(wrong).unwrap_err().0;
            assert!(why.contains(remedy) && why.contains(wrong), "{why}");
        }
    }
}
