//! The numbers in CLOSE, ERROR and refusing responses.

use std::fmt;

/// Reason number of a CLOSE, an ERROR or a refusal.
///
/// The published text numbers errors (1000 and above) and gives CLOSE no codes; those below 1000 are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub u16);

/// Defines the constants and their names in one place.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        impl Code {
            $($(#[$doc])* pub const $name: Self = Self($number);)*

            /// Name of a known code.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// CLOSE: nothing is wrong.
    NORMAL = 0;
    /// CLOSE: a person ended it.
    USER = 1;
    /// CLOSE: the peer did not answer a PING.
    PING_TIMEOUT = 2;
    /// CLOSE: the server stops.
    GOING_AWAY = 3;
    /// CLOSE: another connection took the session over.
    REPLACED = 4;
    /// CLOSE: the session lives on without this client.
    DETACHED = 5;
    /// CLOSE: nothing happened for too long.
    IDLE = 6;
    /// CLOSE: policy or an administrator.
    POLICY = 7;
    /// The token is wrong or absent.
    AUTH_FAILED = 1000;
    /// The token was good once.
    AUTH_EXPIRED = 1001;
    /// The token or peer may not do this, or the target is not allowed.
    AUTH_INSUFFICIENT = 1002;
    /// The backend cannot be reached.
    CONNECT_FAILED = 2000;
    /// The backend did not answer in time.
    CONNECT_TIMEOUT = 2001;
    /// The backend refused the connection.
    CONNECT_REFUSED = 2002;
    /// The backend ended.
    BACKEND_CLOSED = 2003;
    /// A rule of the protocol was broken.
    PROTOCOL_ERROR = 3000;
    /// A frame does not fit its layout.
    INVALID_MESSAGE = 3001;
    /// A frame that is not allowed now.
    INVALID_STATE = 3002;
    /// A frame above its limit.
    MESSAGE_TOO_LARGE = 3003;
    /// The major version is unknown.
    UNSUPPORTED_VERSION = 3004;
    /// No such session, or not for this peer.
    SESSION_NOT_FOUND = 4000;
    /// The session waited too long for its client.
    SESSION_EXPIRED = 4001;
    /// Output the client has not seen is gone.
    BUFFER_OVERFLOW = 4002;
    /// A number that cannot be.
    SEQUENCE_MISMATCH = 4003;
}

impl Code {
    /// Whether the number tells of an error and not of an ordinary end.
    pub const fn is_error(self) -> bool {
        self.0 >= 1000
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{} {name}", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}
