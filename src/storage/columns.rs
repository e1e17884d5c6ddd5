//! The catalogue of column families and of the tables within them.
//!
//! Families are few and follow access patterns; a table is a leading tag byte
//! of the key, with one owner that writes it. Every key continues with the
//! partition as `u16` big-endian, then as stated; integers in keys are
//! big-endian, so that byte order is their order.

/// A column family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Applied offsets, versions, epochs, the output tail. Point look-ups.
    Meta,
    /// Room server: rows by interned id.
    Rooms,
    /// Room server: looked up by event id, idempotency key, user.
    Index,
    /// Room server: state nodes and the history of each key.
    State,
    /// User server and alias server.
    Users,
    /// Client sync reader.
    ClientSync,
}

impl Family {
    /// Every family.
    pub const ALL: [Family; 6] = [
        Family::Meta,
        Family::Rooms,
        Family::Index,
        Family::State,
        Family::Users,
        Family::ClientSync,
    ];

    /// Its name in RocksDB.
    pub fn name(self) -> &'static str {
        match self {
            Family::Meta => "meta",
            Family::Rooms => "rooms",
            Family::Index => "index",
            Family::State => "state",
            Family::Users => "users",
            Family::ClientSync => "client_sync",
        }
    }
}

/// A table: family, tag, owner and whether the state digest covers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    pub family: Family,
    pub tag: u8,
    pub name: &'static str,
    /// The folder in `src/` whose code alone writes it.
    pub owner: &'static str,
    /// Caches and bookkeeping are not digested.
    pub digested: bool,
}

const fn table(
    family: Family,
    tag: u8,
    name: &'static str,
    owner: &'static str,
    digested: bool,
) -> Table {
    Table {
        family,
        tag,
        name,
        owner,
        digested,
    }
}

/// `partition` → applied input offset and link, output offset and link, projector version.
pub const APPLIED: Table = table(Family::Meta, 1, "applied", "projectors", false);
/// `partition | output offset` → what completes the tail of *output* after a crash.
pub const OUTPUT_TAIL: Table = table(Family::Meta, 2, "output_tail", "projectors", false);
/// Reader name → its cursor, one per partition.
pub const CURSORS: Table = table(Family::Meta, 3, "cursors", "readers", false);
/// Store version and output epoch.
pub const STORE: Table = table(Family::Meta, 4, "store", "projectors", false);

/// All tables that this file declares. Owners add theirs beside it.
pub const ALL: &[Table] = &[APPLIED, OUTPUT_TAIL, CURSORS, STORE];
