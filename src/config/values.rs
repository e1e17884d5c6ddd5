//! Types of values that the standard library does not have: sizes, counts with
//! bounds, address ranges, secrets.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// A number of bytes: a plain integer, or text with KiB, MiB or GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl FromStr for ByteSize {
    type Err = ();

    fn from_str(text: &str) -> Result<ByteSize, ()> {
        for (unit, bytes) in UNITS {
            if let Some(number) = text.strip_suffix(unit) {
                let number: u64 = number.trim_end().parse().map_err(drop)?;
                return number.checked_mul(bytes).map(ByteSize).ok_or(());
            }
        }
        text.parse().map(ByteSize).map_err(drop)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, bytes) in UNITS {
            if self.0 >= bytes && self.0.is_multiple_of(bytes) {
                return write!(out, "{} {unit}", self.0 / bytes);
            }
        }
        write!(out, "{}", self.0)
    }
}

/// An integer from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count<const MIN: u32, const MAX: u32>(pub u32);

impl<const MIN: u32, const MAX: u32> FromStr for Count<MIN, MAX> {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let number: u32 = text.parse().map_err(drop)?;
        if (MIN..=MAX).contains(&number) {
            Ok(Count(number))
        } else {
            Err(())
        }
    }
}

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself. Whoever calls this must not log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("(secret)")
    }
}

/// Host or address with an optional port, at which a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticAddress {
    pub host: String,
    /// 8448 unless given.
    pub port: u16,
}

/// The port of the server-server API where nothing else is said.
const FEDERATION_PORT: u16 = 8448;

impl FromStr for StaticAddress {
    type Err = ();

    fn from_str(text: &str) -> Result<StaticAddress, ()> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(StaticAddress {
                host: address.ip().to_string(),
                port: address.port(),
            });
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(StaticAddress {
                host: address.to_string(),
                port: FEDERATION_PORT,
            });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(drop)?),
            None => (text, FEDERATION_PORT),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        if host.is_empty() || !host.chars().all(plain) {
            return Err(());
        }
        Ok(StaticAddress {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for StaticAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => write!(out, "{}", SocketAddr::new(ip, self.port)),
            Err(_) => write!(out, "{}:{}", self.host, self.port),
        }
    }
}

/// A range of addresses in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    base: IpAddr,
    prefix_bits: u8,
}

/// What no remote name may make us connect to: this host, private networks,
/// link-local and multicast addresses, and ranges with a special meaning.
const PRIVATE: [&str; 25] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
    "::/128",
    "::1/128",
    // Ways to write an IPv4 address: NAT64, Teredo, 6to4.
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "2001::/32",
    "2002::/16",
    "2001:db8::/32",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

impl AddressRange {
    /// The default of `federation.deny_addresses`.
    pub fn private() -> Vec<AddressRange> {
        PRIVATE
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect()
    }

    /// Whether the address lies in the range. An IPv4 address written as IPv6 is
    /// judged as the IPv4 address it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(self.prefix_bits))
                    .unwrap_or(0);
                u32::from(base) & mask == u32::from(address) & mask
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.prefix_bits))
                    .unwrap_or(0);
                u128::from(base) & mask == u128::from(address) & mask
            }
            (IpAddr::V4(Ipv4Addr { .. }), IpAddr::V6(Ipv6Addr { .. }))
            | (IpAddr::V6(Ipv6Addr { .. }), IpAddr::V4(Ipv4Addr { .. })) => false,
        }
    }
}

impl FromStr for AddressRange {
    type Err = ();

    fn from_str(text: &str) -> Result<AddressRange, ()> {
        let (base, prefix) = match text.split_once('/') {
            Some((base, prefix)) => (base, Some(prefix)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(drop)?;
        let bits_max = if base.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            Some(prefix) => prefix.parse().map_err(drop)?,
            None => bits_max,
        };
        if prefix_bits > bits_max {
            return Err(());
        }
        Ok(AddressRange { base, prefix_bits })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.base, self.prefix_bits)
    }
}

/// Directives of `tracing`'s filter, known to be valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The directives.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogFilter {
    fn default() -> LogFilter {
        LogFilter("info".to_owned())
    }
}

impl FromStr for LogFilter {
    type Err = ();

    fn from_str(text: &str) -> Result<LogFilter, ()> {
        tracing_subscriber::EnvFilter::builder()
            .parse(text)
            .map_err(drop)?;
        Ok(LogFilter(text.to_owned()))
    }
}

/// Shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl FromStr for LogFormat {
    type Err = ();

    fn from_str(text: &str) -> Result<LogFormat, ()> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(()),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        })
    }
}
