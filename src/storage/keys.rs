//! Key and row codecs: fixed-width big-endian integers in keys, so that byte
//! order is their order; a small reader for rows.

use super::columns::Table;
use super::overlay::StoreError;

/// A key with the table's tag in front.
pub fn tagged(table: Table, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(key.len() + 1);
    full.push(table.tag);
    full.extend_from_slice(key);
    full
}

/// The first key behind all that begin with `prefix`; none if there is no such.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xFF)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// A key under construction. Begins with the partition, as [`super::columns`] says.
#[derive(Clone, Debug)]
pub struct Key(Vec<u8>);

impl Key {
    /// A key of a partition.
    pub fn of(partition: u32) -> Key {
        let mut bytes = Vec::with_capacity(40);
        // There are at most a few hundred partitions (FORMAT.md, ROOT).
        bytes.extend_from_slice(&(partition as u16).to_be_bytes());
        Key(bytes)
    }

    /// A number, compact and in order: `len u8 | big-endian bytes without leading zeros`.
    pub fn number(mut self, value: u64) -> Key {
        let bytes = value.to_be_bytes();
        let zeros = (value.leading_zeros() / 8) as usize;
        self.0.push((bytes.len() - zeros) as u8);
        self.0.extend_from_slice(&bytes[zeros..]);
        self
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Key {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Text that something follows: `len u16 | bytes`. Identifiers are at most 255 bytes.
    pub fn text(mut self, text: &str) -> Key {
        let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&len.to_be_bytes());
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Reads a row field by field. Integers are as [`RowWriter`] wrote them.
pub struct RowReader<'a> {
    table: Table,
    bytes: &'a [u8],
}

impl<'a> RowReader<'a> {
    pub fn new(table: Table, bytes: &'a [u8]) -> RowReader<'a> {
        RowReader { table, bytes }
    }

    /// A row error that names the table.
    pub fn error(&self, why: &str) -> StoreError {
        StoreError::Row {
            table: self.table.name,
            why: why.to_owned(),
        }
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8], StoreError> {
        let Some((taken, rest)) = self.bytes.split_at_checked(len) else {
            return Err(self.error("row is too short"));
        };
        self.bytes = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| self.error("row is too short"))
    }

    pub fn u8(&mut self) -> Result<u8, StoreError> {
        Ok(self.array::<1>()?[0])
    }

    /// A number as [`Key::number`] writes it.
    pub fn number(&mut self) -> Result<u64, StoreError> {
        let len = usize::from(self.u8()?);
        if len > 8 {
            return Err(self.error("number is too long"));
        }
        let bytes = self.take(len)?;
        Ok(bytes
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    /// A text as [`Key::text`] writes it.
    pub fn key_text(&mut self) -> Result<&'a str, StoreError> {
        let len = usize::from(u16::from_be_bytes(self.array()?));
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map_err(|_| self.error("text is not UTF-8"))
    }

    /// The text that ends a key.
    pub fn rest_text(&mut self) -> Result<&'a str, StoreError> {
        let bytes = self.take(self.bytes.len())?;
        std::str::from_utf8(bytes).map_err(|_| self.error("text is not UTF-8"))
    }

    /// A variable-length integer, 7 bits a byte, low bits first.
    pub fn varint(&mut self) -> Result<u64, StoreError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.error("integer is too long"))
    }

    pub fn text(&mut self) -> Result<&'a str, StoreError> {
        let len = self.varint()?;
        let len = usize::try_from(len).map_err(|_| self.error("text is too long"))?;
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map_err(|_| self.error("text is not UTF-8"))
    }

    pub fn optional_text(&mut self) -> Result<Option<&'a str>, StoreError> {
        match self.u8()? {
            0 => Ok(None),
            1 => self.text().map(Some),
            _ => Err(self.error("option is neither 0 nor 1")),
        }
    }

    pub fn optional_varint(&mut self) -> Result<Option<u64>, StoreError> {
        match self.u8()? {
            0 => Ok(None),
            1 => self.varint().map(Some),
            _ => Err(self.error("option is neither 0 nor 1")),
        }
    }

    /// All bytes that were not read yet.
    pub fn rest(self) -> &'a [u8] {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Every byte must have been used.
    pub fn finish(self) -> Result<(), StoreError> {
        match self.bytes.is_empty() {
            true => Ok(()),
            false => Err(self.error("bytes follow the row")),
        }
    }
}

/// Writes a row field by field: compact, and the same bytes for the same fields.
#[derive(Debug, Default)]
pub struct RowWriter(Vec<u8>);

impl RowWriter {
    pub fn with_capacity(bytes: usize) -> RowWriter {
        RowWriter(Vec::with_capacity(bytes))
    }

    pub fn u8(&mut self, value: u8) -> &mut RowWriter {
        self.0.push(value);
        self
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> &mut RowWriter {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn varint(&mut self, mut value: u64) -> &mut RowWriter {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    pub fn text(&mut self, text: &str) -> &mut RowWriter {
        self.varint(text.len() as u64).bytes(text.as_bytes())
    }

    pub fn optional_text(&mut self, text: Option<&str>) -> &mut RowWriter {
        match text {
            None => self.u8(0),
            Some(text) => self.u8(1).text(text),
        }
    }

    pub fn optional_varint(&mut self, value: Option<u64>) -> &mut RowWriter {
        match value {
            None => self.u8(0),
            Some(value) => self.u8(1).varint(value),
        }
    }

    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::columns::STORE;
    use proptest::prelude::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_prefix() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(&[1, 0xFF, 0xFF]), Some(vec![2]));
        assert_eq!(prefix_end(&[0xFF]), None);
        assert_eq!(prefix_end(b""), None);
    }

    proptest! {
        #[test]
        fn numbers_in_keys_keep_their_order(a: u64, b: u64, shift in 0u32..64) {
            let (a, b) = (a >> shift, b);
            let key = |value| Key::of(1).number(value).as_bytes().to_vec();
            prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
            let mut read = RowReader::new(STORE, &[]);
            let bytes = key(a);
            read.bytes = &bytes[2..];
            prop_assert_eq!(read.number().unwrap(), a);
        }

        #[test]
        fn rows_read_back(a: u64, b: Option<u64>, text: String, other: Option<String>) {
            let mut row = RowWriter::default();
            row.varint(a).optional_varint(b).text(&text).optional_text(other.as_deref());
            let bytes = row.finish();
            let mut read = RowReader::new(STORE, &bytes);
            prop_assert_eq!(read.varint().unwrap(), a);
            prop_assert_eq!(read.optional_varint().unwrap(), b);
            prop_assert_eq!(read.text().unwrap(), text);
            prop_assert_eq!(read.optional_text().unwrap(), other.as_deref());
            prop_assert!(read.finish().is_ok());
        }

        #[test]
        fn no_bytes_make_a_reader_panic(bytes: Vec<u8>) {
            let mut read = RowReader::new(STORE, &bytes);
            while read.varint().is_ok() && read.optional_text().is_ok() {}
        }
    }
}
