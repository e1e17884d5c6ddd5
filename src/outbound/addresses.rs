//! Where we do not connect on behalf of a stranger (security: server-side
//! request forgery). Names are filtered after they are resolved, literal
//! addresses before they are used.

use std::net::IpAddr;

use crate::config::values::AddressRange;

/// An address that may not be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is in a range of federation.deny_addresses")]
pub struct DeniedAddress(pub IpAddr);

/// The ranges of the configuration.
#[derive(Clone, Debug, Default)]
pub struct AddressFilter {
    denied: Vec<AddressRange>,
}

impl AddressFilter {
    pub fn new(denied: Vec<AddressRange>) -> AddressFilter {
        AddressFilter { denied }
    }

    /// Errors: the address may not be connected to.
    pub fn check(&self, address: IpAddr) -> Result<(), DeniedAddress> {
        match self.denied.iter().any(|range| range.contains(address)) {
            true => Err(DeniedAddress(address)),
            false => Ok(()),
        }
    }

    /// Those of some addresses that may be connected to.
    ///
    /// Errors: there are addresses, and none is left.
    pub fn allowed(&self, addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, DeniedAddress> {
        let mut denied = None;
        let mut allowed = Vec::with_capacity(addresses.len());
        for address in addresses {
            match self.check(address) {
                Ok(()) => allowed.push(address),
                Err(error) => denied = Some(error),
            }
        }
        match denied {
            Some(error) if allowed.is_empty() => Err(error),
            _ => Ok(allowed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_inside_is_denied_however_it_is_written() {
        let filter = AddressFilter::new(AddressRange::private());
        for inside in [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "169.254.169.254",
            "172.31.255.255",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "fc00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            let address: IpAddr = inside.parse().expect(inside);
            assert_eq!(
                filter.check(address),
                Err(DeniedAddress(address)),
                "{inside}"
            );
        }
        for outside in [
            "1.1.1.1",
            "172.32.0.1",
            "192.0.3.1",
            "2606:4700::1",
            "2a00::1",
        ] {
            assert_eq!(
                filter.check(outside.parse().expect(outside)),
                Ok(()),
                "{outside}"
            );
        }
    }

    #[test]
    fn of_mixed_addresses_those_outside_are_left() {
        let filter = AddressFilter::new(AddressRange::private());
        let (inside, outside): (IpAddr, IpAddr) = (
            "127.0.0.1".parse().expect("v4"),
            "1.1.1.1".parse().expect("v4"),
        );
        assert_eq!(filter.allowed(vec![inside, outside]), Ok(vec![outside]));
        assert_eq!(filter.allowed(vec![inside]), Err(DeniedAddress(inside)));
        assert_eq!(filter.allowed(vec![]), Ok(vec![]));
    }
}
