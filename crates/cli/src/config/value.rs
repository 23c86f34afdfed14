//! How each kind of value is read from text (environment, flags) and from TOML, and how it is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::kinds::{
    ByteSize, Encryption, Endpoint, Identifier, Interval, LogFormat, MailSecurity, Mtu, PlaceName, Port,
    PublicUrl, Secret,
};

/// A kind of value. Errors are sentences that say what is allowed.
pub(super) trait SettingValue: Sized {
    /// Reads the form of the environment and of flags.
    fn from_text(text: &str) -> Result<Self, String>;

    /// Reads the form of the file; by default what text and numbers look like as text.
    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(text) => Self::from_text(text),
            toml::Value::Integer(number) => Self::from_text(&number.to_string()),
            toml::Value::Float(number) => Self::from_text(&number.to_string()),
            toml::Value::Boolean(flag) => Self::from_text(&flag.to_string()),
            other => Err(format!("must be a single value, found {}", article(other.type_str()))),
        }
    }

    /// The text that [`Self::from_text`] reads back; secrets excepted.
    fn show(&self) -> String;
}

fn article(kind: &str) -> String {
    if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { format!("an {kind}") } else { format!("a {kind}") }
}

impl SettingValue for String {
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
    fn show(&self) -> String {
        self.clone()
    }
}

impl SettingValue for PathBuf {
    fn from_text(text: &str) -> Result<Self, String> {
        if text.starts_with('/') { Ok(text.into()) } else { Err("must be an absolute path".to_owned()) }
    }
    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl SettingValue for u32 {
    fn from_text(text: &str) -> Result<Self, String> {
        text.trim().parse().map_err(|_| "must be a whole number from 0 to 4294967295".to_owned())
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

/// A port.
impl SettingValue for u16 {
    fn from_text(text: &str) -> Result<Self, String> {
        let port = text.trim().parse().ok().filter(|port| *port != 0);
        port.ok_or_else(|| "must be a port, a whole number from 1 to 65535".to_owned())
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl SettingValue for bool {
    fn from_text(text: &str) -> Result<Self, String> {
        text.trim().parse().map_err(|_| "must be true or false".to_owned())
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl SettingValue for SocketAddr {
    fn from_text(text: &str) -> Result<Self, String> {
        text.trim()
            .parse()
            .map_err(|_| "must be an IP address with a port, such as 0.0.0.0:10000 or [::]:10000".to_owned())
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl SettingValue for IpAddr {
    fn from_text(text: &str) -> Result<Self, String> {
        text.trim().parse().map_err(|_| "must be an IP address".to_owned())
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

/// Empty and `off` are `None`.
impl<T: SettingValue> SettingValue for Option<T> {
    fn from_text(text: &str) -> Result<Self, String> {
        if matches!(text.trim(), "" | "off") { Ok(None) } else { T::from_text(text).map(Some) }
    }
    fn show(&self) -> String {
        self.as_ref().map(T::show).unwrap_or_default()
    }
}

/// A TOML list, or a text with commas.
impl SettingValue for Vec<String> {
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect())
    }
    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        let wrong = || "must be a list of texts".to_owned();
        match value {
            toml::Value::String(text) => Self::from_text(text),
            toml::Value::Array(items) => {
                items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
            }
            _ => Err(wrong()),
        }
    }
    fn show(&self) -> String {
        self.join(",")
    }
}

impl SettingValue for BTreeSet<String> {
    fn from_text(text: &str) -> Result<Self, String> {
        Vec::from_text(text).map(Self::from_iter)
    }
    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        Vec::from_toml(value).map(Self::from_iter)
    }
    fn show(&self) -> String {
        self.iter().cloned().collect::<Vec<_>>().join(",")
    }
}

/// A TOML table, or `key=value,key=value`.
impl SettingValue for BTreeMap<String, String> {
    fn from_text(text: &str) -> Result<Self, String> {
        pairs(text)?.into_iter().map(|(key, value)| Ok((key.to_owned(), value.to_owned()))).collect()
    }
    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        let wrong = || "must be a table of texts, such as { room = \"lab\" }".to_owned();
        match value {
            toml::Value::String(text) => Self::from_text(text),
            toml::Value::Table(table) => table
                .iter()
                .map(|(key, value)| Ok((key.clone(), value.as_str().ok_or_else(wrong)?.to_owned())))
                .collect(),
            _ => Err(wrong()),
        }
    }
    fn show(&self) -> String {
        self.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
    }
}

/// A TOML table of lists, or `key=first second,key=…`.
impl SettingValue for BTreeMap<String, Vec<String>> {
    fn from_text(text: &str) -> Result<Self, String> {
        let words = |value: &str| value.split_whitespace().map(str::to_owned).collect();
        Ok(pairs(text)?.into_iter().map(|(key, value)| (key.to_owned(), words(value))).collect())
    }
    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(text) => Self::from_text(text),
            toml::Value::Table(table) => {
                table.iter().map(|(key, value)| Ok((key.clone(), Vec::from_toml(value)?))).collect()
            }
            _ => Err("must be a table of lists, such as { \"docker.io\" = [\"mirror:5000\"] }".to_owned()),
        }
    }
    fn show(&self) -> String {
        self.iter().map(|(key, values)| format!("{key}={}", values.join(" "))).collect::<Vec<_>>().join(",")
    }
}

fn pairs(text: &str) -> Result<Vec<(&str, &str)>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| match part.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => Ok((key.trim(), value.trim())),
            _ => Err("must be key=value pairs separated by commas".to_owned()),
        })
        .collect()
}

/// Makes kinds that are read with `FromStr` and shown with `Display`; generics stand in front of the type.
macro_rules! text_values {
    ($([$($generics:tt)*] $kind:ty),* $(,)?) => {$(
        impl<$($generics)*> SettingValue for $kind {
            fn from_text(text: &str) -> Result<Self, String> {
                text.parse()
            }
            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
text_values!(
    [] LogFormat,
    [] MailSecurity,
    [] Encryption,
    [] Port,
    [] PublicUrl,
    [] PlaceName,
    [] Mtu,
    [] ByteSize,
    [const LEAST: u64, const MOST: u64] Interval<LEAST, MOST>,
    [const MAX: usize] Identifier<MAX>,
    [const PORT: u16] Endpoint<PORT>,
);

impl SettingValue for Secret {
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(Self::new(text.trim()))
    }
    fn show(&self) -> String {
        "(hidden)".to_owned()
    }
}
