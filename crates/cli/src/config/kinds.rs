//! Kinds of values that only the configuration has; each parses from text into something that cannot be wrong.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::time::Duration;

/// Form of the program's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("must be text or json".to_owned()),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Name of a cluster or a worker: what `direct` constraints can refer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlaceName(String);

impl PlaceName {
    pub(super) fn literal(text: &'static str) -> Self {
        Self(text.to_owned())
    }

    /// The name as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PlaceName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        // `;` separates names in constraints.
        let is_allowed = |letter: char| !letter.is_control() && !letter.is_whitespace() && letter != ';';
        if (1..=255).contains(&text.len()) && text.chars().all(is_allowed) {
            return Ok(Self(text.to_owned()));
        }
        Err("must be a name of 1 to 255 bytes without blanks and `;`".to_owned())
    }
}

impl fmt::Display for PlaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of a kernel object: 1 to `MAX` lower-case letters and digits, beginning with a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identifier<const MAX: usize>(String);

impl<const MAX: usize> Identifier<MAX> {
    pub(super) fn literal(text: &'static str) -> Self {
        Self(text.to_owned())
    }

    /// The name as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> FromStr for Identifier<MAX> {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let starts_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
        if text.len() <= MAX && starts_well && text.bytes().all(is_allowed) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!("must be 1 to {MAX} lower-case letters and digits, beginning with a letter"))
    }
}

impl<const MAX: usize> fmt::Display for Identifier<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Largest packet of an interface, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mtu(u16);

impl Mtu {
    /// Fits VXLAN over IPv4 into 1500 bytes (network reference, 14).
    pub(super) const OVERLAY: Self = Self(1450);

    /// Bytes.
    pub(crate) fn bytes(self) -> u16 {
        self.0
    }
}

impl FromStr for Mtu {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        // IPv6 needs 1280.
        let number = text.trim().parse().ok().filter(|number| (1280..=9216).contains(number));
        number.map(Self).ok_or_else(|| "must be a whole number from 1280 to 9216".to_owned())
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An amount of storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ByteSize(u64);

/// Longest suffix first, so that `KiB` is not read as `B`.
const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

impl ByteSize {
    pub(super) const fn gib(number: u64) -> Self {
        Self(number << 30)
    }

    /// Bytes.
    pub(crate) fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let unit = UNITS.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)));
        let (digits, factor) = unit.unwrap_or((text, 1));
        let bytes = digits.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        bytes.map(Self).ok_or_else(|| "must be a size, such as 20GiB, 500MB or a number of bytes".to_owned())
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = UNITS.iter().take(4).rev();
        match binary.clone().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor)) {
            Some((suffix, factor)) => write!(f, "{}{suffix}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A span of time of whole seconds, from `LEAST` to `MOST` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interval<const LEAST: u64, const MOST: u64>(Duration);

/// Suffix and seconds.
const SPANS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];

impl<const LEAST: u64, const MOST: u64> Interval<LEAST, MOST> {
    pub(super) const fn of_seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The span.
    pub(crate) fn duration(self) -> Duration {
        self.0
    }
}

impl<const LEAST: u64, const MOST: u64> FromStr for Interval<LEAST, MOST> {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let span = SPANS.iter().find_map(|(suffix, seconds)| {
            let number: u64 = text.strip_suffix(suffix)?.trim().parse().ok()?;
            number.checked_mul(*seconds)
        });
        let wrong = || {
            let (least, most) = (Self::of_seconds(LEAST), Self::of_seconds(MOST));
            format!("must be a time from {least} to {most}: a whole number with s, m, h or d behind it")
        };
        span.filter(|seconds| (LEAST..=MOST).contains(seconds)).map(Self::of_seconds).ok_or_else(wrong)
    }
}

impl<const LEAST: u64, const MOST: u64> fmt::Display for Interval<LEAST, MOST> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let span = SPANS.iter().rev().find(|(_, span)| seconds.is_multiple_of(*span));
        let (suffix, span) = span.copied().unwrap_or(("s", 1));
        write!(f, "{}{suffix}", seconds / span)
    }
}

/// `host` or `host:port`; without a port it is `DEFAULT_PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint<const DEFAULT_PORT: u16> {
    host: String,
    port: u16,
}

impl<const DEFAULT_PORT: u16> Endpoint<DEFAULT_PORT> {
    pub(super) fn this_machine() -> Self {
        Self { host: "127.0.0.1".to_owned(), port: DEFAULT_PORT }
    }

    /// Host name or address, without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Port, 1–65535.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl<const DEFAULT_PORT: u16> FromStr for Endpoint<DEFAULT_PORT> {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("must be host or host:port (port {DEFAULT_PORT} when left out)");
        // SYSTEM_MANAGER_URL is called a URL; some write it as one.
        let text = text.trim();
        let text = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or(text);
        let text = text.trim_end_matches('/');
        let bare_v6 = text.parse::<Ipv6Addr>().is_ok();
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !bare_v6 && !text.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        let is_host = (1..=253).contains(&host.len()) && host.bytes().all(is_allowed);
        if !is_host || (host.contains(':') && host.parse::<Ipv6Addr>().is_err()) {
            return Err(wrong());
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl<const DEFAULT_PORT: u16> fmt::Display for Endpoint<DEFAULT_PORT> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// How the connection to the mail server is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MailSecurity {
    /// TLS from the first byte.
    #[default]
    Tls,
    /// TLS after `STARTTLS`.
    StartTls,
    /// Not at all.
    None,
}

impl MailSecurity {
    /// The port it is usual on.
    pub(crate) const fn usual_port(self) -> u16 {
        match self {
            Self::Tls => 465,
            Self::StartTls => 587,
            Self::None => 25,
        }
    }
}

impl FromStr for MailSecurity {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "tls" => Ok(Self::Tls),
            "starttls" => Ok(Self::StartTls),
            "none" => Ok(Self::None),
            _ => Err("must be tls, starttls or none".to_owned()),
        }
    }
}

impl fmt::Display for MailSecurity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "tls",
            Self::StartTls => "starttls",
            Self::None => "none",
        })
    }
}

/// Whether packets between workers are encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Encryption {
    /// Always.
    Required,
    /// With every worker that can.
    #[default]
    Preferred,
    /// Never.
    Off,
}

impl FromStr for Encryption {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "required" => Ok(Self::Required),
            "preferred" => Ok(Self::Preferred),
            "off" => Ok(Self::Off),
            _ => Err("must be required, preferred or off".to_owned()),
        }
    }
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Required => "required",
            Self::Preferred => "preferred",
            Self::Off => "off",
        })
    }
}

/// A TCP port of another machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Port(u16);

impl Port {
    /// 1–65535.
    pub(crate) const fn number(self) -> u16 {
        self.0
    }
}

impl FromStr for Port {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().parse().ok().filter(|number| *number != 0);
        number.map(Self).ok_or_else(|| "must be a whole number from 1 to 65535".to_owned())
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `http://` or `https://` with host, port and path; kept without a slash at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublicUrl(String);

impl PublicUrl {
    /// The address, without a slash at the end.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PublicUrl {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim().trim_end_matches('/');
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_~:/[]".contains(&byte);
        match rest {
            Some(rest) if !rest.is_empty() && !rest.starts_with('/') && rest.bytes().all(is_allowed) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err("must be an address such as https://oak.example, without `?` and `#`".to_owned()),
        }
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A value that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The value itself.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
