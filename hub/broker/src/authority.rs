//! Who may connect, and what they may do then: the hub decides.

use std::net::{IpAddr, SocketAddr};

use crate::limits::Class;
use crate::topic::TopicFilter;

/// Decides about clients. Called on the broker's executor for each CONNECT,
/// without any lock held; it must answer at once.
pub trait Authority: Send + Sync + 'static {
    /// What this client may do, or why it may not come in.
    ///
    /// A client id must belong to its user: the broker gives a session only to
    /// the user that made it, but bounds neither how many client ids a user
    /// may have. An authority that ties one to the other bounds both.
    fn connect(&self, who: &Credentials<'_>) -> Result<Grant, Refusal>;

    /// Told of each publish and subscription that a grant did not allow.
    fn denied(&self, what: &Denied) {
        tracing::warn!(client = %what.client_id, topic = %what.topic, verb = what.verb, "denied by access rules");
    }
}

/// Who says to be there.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    /// MQTT's client id.
    pub client_id: &'a str,
    /// The user name, if there is one.
    pub username: Option<&'a str>,
    /// The password, if there is one.
    pub password: Option<&'a [u8]>,
    /// Where the connection comes from.
    pub peer: Peer,
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Over TLS.
    Tls(SocketAddr),
    /// Over TCP without TLS.
    Plain(SocketAddr),
    /// Over the Unix socket, whose file permissions tell who can.
    Unix,
}

impl Peer {
    /// What connections are counted by: the address, or an IPv6 /64.
    pub(crate) fn origin(&self) -> Option<IpAddr> {
        match self {
            Self::Unix => None,
            Self::Tls(address) | Self::Plain(address) => Some(match address.ip().to_canonical() {
                IpAddr::V4(v4) => IpAddr::V4(v4),
                IpAddr::V6(v6) => {
                    let net = u128::from(v6) & !u128::from(u64::MAX);
                    IpAddr::V6(net.into())
                }
            }),
        }
    }
}

/// What a client may do.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Where it may publish, its will included.
    pub publish: Vec<TopicFilter>,
    /// What it may subscribe to: these filters, or narrower ones.
    pub subscribe: Vec<TopicFilter>,
    /// What it may use.
    pub class: Class,
}

/// Why a client may not come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The kind, which becomes MQTT's reason code.
    pub kind: RefusalKind,
    /// Words for the other side; MQTT 5 carries them.
    pub words: String,
}

/// The kinds of refusal that MQTT knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// User name or password is wrong.
    BadCredentials,
    /// The user is known but may not come in.
    NotAuthorized,
    /// The device was revoked.
    Banned,
    /// This client id is not for this user.
    ClientId,
    /// Try again later.
    Busy,
}

impl Refusal {
    /// A refusal of this kind with these words.
    pub fn new(kind: RefusalKind, words: impl Into<String>) -> Self {
        Self {
            kind,
            words: words.into(),
        }
    }
}

/// A publish or subscription that a grant did not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// Whose.
    pub client_id: String,
    /// `publish` or `subscribe`.
    pub verb: &'static str,
    /// The topic or filter.
    pub topic: String,
}
