//! Numbers that canonical JSON does not have: fractions, exponents, and integers
//! beyond 53 bits.
//!
//! Room versions 1 to 5 let them into events (*Canonical JSON* there), and an
//! event's hashes and signatures are over their text. That text is the one that
//! Python writes, by which the appendices define the encoding.

use serde::{Serialize, Serializer};

/// A number that is no canonical integer, as its canonical text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OddNumber {
    text: Box<str>,
}

impl OddNumber {
    /// An integer, from its decimal digits as the JSON grammar has them.
    pub(super) fn integer(digits: &str) -> OddNumber {
        OddNumber {
            text: digits.into(),
        }
    }

    /// A finite number with fraction or exponent.
    pub(super) fn float(value: f64) -> OddNumber {
        OddNumber {
            text: float_text(value).into(),
        }
    }

    /// The number in canonical JSON.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn is_float(&self) -> bool {
        self.text.contains(['.', 'e'])
    }

    /// The integer that is left when the fraction is cut off; the nearest one
    /// that fits if it is too large. This is how a power level is read (room
    /// version 1, *power levels accept values as floats*).
    pub fn truncated(&self) -> i64 {
        if self.is_float() {
            // A cast cuts off the fraction, and saturates.
            return self.text.parse::<f64>().unwrap_or_default() as i64;
        }
        self.text
            .parse()
            .unwrap_or(match self.text.starts_with('-') {
                true => i64::MIN,
                false => i64::MAX,
            })
    }

    /// The integer that it is, if it is one of 64 bits.
    pub fn as_i64(&self) -> Option<i64> {
        if !self.is_float() {
            return self.text.parse().ok();
        }
        let value: f64 = self.text.parse().ok()?;
        // Below 2^53 every integer is exact.
        (value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0).then_some(value as i64)
    }
}

impl Serialize for OddNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.is_float(), self.as_i64()) {
            (false, Some(integer)) => serializer.serialize_i64(integer),
            // The nearest that other formats have; canonical bytes are not made here.
            _ => serializer.serialize_f64(self.text.parse().unwrap_or_default()),
        }
    }
}

/// The shortest decimal that reads as the same number, in Python's form: with
/// an exponent below 1e-4 and from 1e16 on, otherwise with a decimal point.
fn float_text(value: f64) -> String {
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs());
    }
    // Without an exponent Rust writes all digits and no more.
    let plain = format!("{value}");
    match plain.contains('.') {
        true => plain,
        false => format!("{plain}.0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected texts are `json.dumps(float(given))` of Python.
    #[test]
    fn floats_are_written_as_python_does() {
        for (given, expected) in [
            ("50.57", "50.57"),
            ("5.114698E4", "51146.98"),
            ("1e3", "1000.0"),
            ("1.0", "1.0"),
            ("-0.0", "-0.0"),
            ("0.1", "0.1"),
            ("1e15", "1000000000000000.0"),
            ("1e16", "1e+16"),
            ("123456789012345678.0", "1.2345678901234568e+17"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("-1.5e300", "-1.5e+300"),
            ("1e-7", "1e-07"),
            ("9007199254740993.0", "9007199254740992.0"),
        ] {
            let value: f64 = given.parse().expect(given);
            assert_eq!(OddNumber::float(value).as_str(), expected, "{given}");
        }
    }

    #[test]
    fn power_levels_are_cut_off() {
        let float = |text: &str| OddNumber::float(text.parse().expect(text)).truncated();
        assert_eq!(float("50.57"), 50);
        assert_eq!(float("-50.57"), -50);
        assert_eq!(float("5.114698E4"), 51_146);
        assert_eq!(float("1e300"), i64::MAX);
        let integer = |text: &str| OddNumber::integer(text).truncated();
        assert_eq!(integer("9223372036854775807"), i64::MAX);
        assert_eq!(integer("99999999999999999999"), i64::MAX);
        assert_eq!(integer("-99999999999999999999"), i64::MIN);
    }

    #[test]
    fn integers_are_exact_or_none() {
        assert_eq!(OddNumber::float(12.0).as_i64(), Some(12));
        assert_eq!(OddNumber::float(12.5).as_i64(), None);
        assert_eq!(OddNumber::float(1e17).as_i64(), None);
        let large = OddNumber::integer("9007199254740993");
        assert_eq!(large.as_i64(), Some(9_007_199_254_740_993));
        assert_eq!(OddNumber::integer("9223372036854775808").as_i64(), None);
    }
}
