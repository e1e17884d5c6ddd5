//! Reading one value from TOML or from the environment, and writing it as TOML.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use ruma::{OwnedServerName, RoomVersionId};
use toml::de::DeValue;

use super::values::{AddressRange, ByteSize, Count, LogFilter, LogFormat, Secret, StaticAddress};

/// A value as it was found.
#[derive(Clone, Copy, Debug)]
pub enum Raw<'a> {
    Toml(&'a DeValue<'a>),
    /// Text of an environment variable: a list is comma-separated, a map is `a=b,c=d`.
    Env(&'a str),
}

/// What a key of the configuration can hold.
pub trait Setting: Sized {
    /// What it takes, in words, for error messages.
    fn expected() -> String;
    /// Reads it; none if it is not what is expected.
    fn read(raw: Raw<'_>) -> Option<Self>;
    /// As TOML; none where nothing is set.
    fn to_toml(&self) -> Option<String>;
}

/// A value that is one word: how it looks in TOML, and its text.
trait Scalar: Sized {
    fn words() -> String;
    fn from_text(text: &str) -> Option<Self>;
    /// TOML, quoted if it is a string there.
    fn text(&self) -> String;
    /// Whether TOML writes it as integer or boolean, so that a string there is refused.
    const BARE: bool;
    /// Whether an integer may stand where TOML usually has a string.
    const ALSO_INTEGER: bool = false;
}

/// Reads a scalar from TOML, where `8008` and `"8008"` are different things.
fn scalar_from_toml<T: Scalar>(value: &DeValue<'_>) -> Option<T> {
    match value {
        DeValue::String(text) if !T::BARE => T::from_text(text),
        DeValue::Boolean(yes) if T::BARE => T::from_text(if *yes { "true" } else { "false" }),
        DeValue::Integer(integer) if (T::BARE || T::ALSO_INTEGER) && integer.radix() == 10 => {
            T::from_text(integer.as_str())
        }
        _ => None,
    }
}

fn scalar<T: Scalar>(raw: Raw<'_>) -> Option<T> {
    match raw {
        Raw::Toml(value) => scalar_from_toml(value),
        Raw::Env(text) => T::from_text(text.trim()),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

macro_rules! scalars {
    ($( $type:ty: $words:expr; )*) => { $(
        impl Scalar for $type {
            const BARE: bool = false;
            fn words() -> String { $words.to_owned() }
            fn from_text(text: &str) -> Option<Self> { text.parse().ok() }
            fn text(&self) -> String { quoted(&self.to_string()) }
        }
        impl_setting!($type);
    )* };
}

macro_rules! impl_setting {
    ($type:ty) => {
        impl Setting for $type {
            fn expected() -> String {
                <$type as Scalar>::words()
            }
            fn read(raw: Raw<'_>) -> Option<Self> {
                scalar(raw)
            }
            fn to_toml(&self) -> Option<String> {
                Some(self.text())
            }
        }
    };
}

scalars! {
    OwnedServerName: "a server name such as \"example.org\"";
    SocketAddr: "an address with a port, such as \"127.0.0.1:8008\" or \"[::]:8448\"";
    AddressRange: "an address range such as \"10.0.0.0/8\"";
    StaticAddress: "a host with a port, such as \"10.0.0.7:8448\"";
    LogFormat: "\"text\" or \"json\"";
}

impl Scalar for String {
    const BARE: bool = false;
    fn words() -> String {
        "text".to_owned()
    }
    fn from_text(text: &str) -> Option<String> {
        Some(text.to_owned()).filter(|text| !text.is_empty())
    }
    fn text(&self) -> String {
        quoted(self)
    }
}
impl_setting!(String);

impl Scalar for PathBuf {
    const BARE: bool = false;
    fn words() -> String {
        "a path".to_owned()
    }
    fn from_text(text: &str) -> Option<PathBuf> {
        Some(PathBuf::from(text)).filter(|path| !path.as_os_str().is_empty())
    }
    fn text(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}
impl_setting!(PathBuf);

impl Scalar for Secret {
    const BARE: bool = false;
    fn words() -> String {
        "text".to_owned()
    }
    fn from_text(text: &str) -> Option<Secret> {
        Some(Secret::new(text)).filter(|_| !text.is_empty())
    }
    fn text(&self) -> String {
        quoted(self.expose())
    }
}
impl_setting!(Secret);

impl Scalar for RoomVersionId {
    const BARE: bool = false;
    fn words() -> String {
        "\"10\", \"11\" or \"12\"".to_owned()
    }
    fn from_text(text: &str) -> Option<RoomVersionId> {
        match text {
            "10" => Some(RoomVersionId::V10),
            "11" => Some(RoomVersionId::V11),
            "12" => Some(RoomVersionId::V12),
            _ => None,
        }
    }
    fn text(&self) -> String {
        quoted(self.as_str())
    }
}
impl_setting!(RoomVersionId);

impl Scalar for LogFilter {
    const BARE: bool = false;
    fn words() -> String {
        "a level (error, warn, info, debug, trace) or directives such as \"info,engram=debug\""
            .to_owned()
    }
    fn from_text(text: &str) -> Option<LogFilter> {
        text.parse().ok()
    }
    fn text(&self) -> String {
        quoted(self.as_str())
    }
}
impl_setting!(LogFilter);

impl Scalar for ByteSize {
    const BARE: bool = false;
    const ALSO_INTEGER: bool = true;
    fn words() -> String {
        "a number of bytes, or text such as \"64 MiB\" (KiB, MiB, GiB)".to_owned()
    }
    fn from_text(text: &str) -> Option<ByteSize> {
        text.parse().ok()
    }
    fn text(&self) -> String {
        quoted(&self.to_string())
    }
}
impl_setting!(ByteSize);

impl Scalar for bool {
    const BARE: bool = true;
    fn words() -> String {
        "true or false".to_owned()
    }
    fn from_text(text: &str) -> Option<bool> {
        text.parse().ok()
    }
    fn text(&self) -> String {
        self.to_string()
    }
}
impl_setting!(bool);

impl<const MIN: u32, const MAX: u32> Scalar for Count<MIN, MAX> {
    const BARE: bool = true;
    fn words() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn text(&self) -> String {
        self.0.to_string()
    }
}

impl<const MIN: u32, const MAX: u32> Setting for Count<MIN, MAX> {
    fn expected() -> String {
        Self::words()
    }
    fn read(raw: Raw<'_>) -> Option<Self> {
        scalar(raw)
    }
    fn to_toml(&self) -> Option<String> {
        Some(self.text())
    }
}

/// Empty text means that nothing is set, since neither TOML nor the environment
/// can say *none*.
impl<T: Setting> Setting for Option<T> {
    fn expected() -> String {
        format!("{}, or empty for none", T::expected())
    }
    fn read(raw: Raw<'_>) -> Option<Self> {
        let empty = match raw {
            Raw::Toml(value) => value.as_str().is_some_and(str::is_empty),
            Raw::Env(text) => text.trim().is_empty(),
        };
        if empty {
            return Some(None);
        }
        T::read(raw).map(Some)
    }
    fn to_toml(&self) -> Option<String> {
        self.as_ref().and_then(Setting::to_toml)
    }
}

impl<T: Scalar> Setting for Vec<T> {
    fn expected() -> String {
        format!("a list, each {}", T::words())
    }
    fn read(raw: Raw<'_>) -> Option<Self> {
        match raw {
            Raw::Toml(DeValue::Array(items)) => items
                .iter()
                .map(|item| scalar_from_toml(item.get_ref()))
                .collect(),
            Raw::Toml(_) => None,
            Raw::Env(text) => env_items(text).map(|item| T::from_text(item)).collect(),
        }
    }
    fn to_toml(&self) -> Option<String> {
        if self.is_empty() {
            return Some("[]".to_owned());
        }
        let items: Vec<String> = self.iter().map(Scalar::text).collect();
        Some(format!("[\n  {},\n]", items.join(",\n  ")))
    }
}

impl<K: Scalar + Ord, V: Scalar> Setting for BTreeMap<K, V> {
    fn expected() -> String {
        format!("a table from {} to {}", K::words(), V::words())
    }
    fn read(raw: Raw<'_>) -> Option<Self> {
        match raw {
            Raw::Toml(DeValue::Table(rows)) => rows
                .iter()
                .map(|(key, value)| {
                    Some((
                        K::from_text(key.get_ref())?,
                        scalar_from_toml(value.get_ref())?,
                    ))
                })
                .collect(),
            Raw::Toml(_) => None,
            Raw::Env(text) => env_items(text)
                .map(|item| {
                    let (key, value) = item.split_once('=')?;
                    Some((K::from_text(key.trim())?, V::from_text(value.trim())?))
                })
                .collect(),
        }
    }
    fn to_toml(&self) -> Option<String> {
        if self.is_empty() {
            return Some("{}".to_owned());
        }
        let rows: Vec<String> = self
            .iter()
            .map(|(key, value)| format!("{} = {}", key.text(), value.text()))
            .collect();
        Some(format!("{{ {} }}", rows.join(", ")))
    }
}

fn env_items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}
