//! The index on disk: its fields, its writer, and the cursors inside each commit.
//!
//! What is committed is whole: documents, deletions and how far *output* was
//! read are one file that is replaced at once, so a crash leaves none without
//! the others. An index of another version, epoch or log is emptied.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use ruma::{EventId, RoomId};
use serde::{Deserialize, Serialize};
use tantivy::directory::MmapDirectory;
use tantivy::directory::error::OpenDirectoryError;
use tantivy::indexer::{IndexWriterOptions, LogMergePolicy, MergeCandidate, MergePolicy};
use tantivy::query::{BooleanQuery, Query, TermQuery};
use tantivy::schema::{
    FAST, Field, INDEXED, IndexRecordOption, Schema, TextFieldIndexing, TextOptions,
};
use tantivy::{
    Index, IndexReader, IndexWriter, ReloadPolicy, SegmentMeta, TantivyDocument, TantivyError, Term,
};

use super::texts::SearchKey;
use crate::query::tokens::Epoch;
use crate::readers::words;

/// Version of what is indexed and how; another one is built anew from *output*.
const VERSION: u32 = 1;
/// Name of the analyzer of [`words`].
const WORDS: &str = "words";

/// Memory of what is not committed yet; when it is full, a segment is written.
const WRITER_BYTES: usize = 24 << 20;
/// Largest segment that is merged into a larger one: bounds what one merge
/// writes, and with it how long a redacted text may stay in a file.
const SEGMENT_DOCUMENTS_MAX: usize = 500_000;
/// A segment of at most so many documents is written anew as soon as something
/// in it was deleted; larger ones wait for [`Writing::erase`].
const ERASED_AT_ONCE_MAX: u32 = 50_000;

/// What the bits of [`Fields::traits`] mean.
pub mod traits {
    /// One of two bits for the key that is searched.
    pub const KEY: u64 = 0b11;
    /// The event says to replace another.
    pub const REPLACES: u64 = 1 << 2;
    /// The content has a `url`.
    pub const URL: u64 = 1 << 3;
    /// Visible to whoever is joined: history is `shared` or `world_readable` there.
    pub const OPEN: u64 = 1 << 4;
    /// Found after what followed it.
    pub const HISTORY: u64 = 1 << 5;
}

/// An index that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error(transparent)]
    Index(#[from] TantivyError),
    #[error("{0}")]
    Folder(#[from] io::Error),
    #[error(transparent)]
    Directory(#[from] OpenDirectoryError),
    #[error("files of the index are damaged: {0:?}")]
    Damaged(Vec<std::path::PathBuf>),
}

/// The fields of a document. All but the text are numbers; nothing is stored.
#[derive(Clone, Copy, Debug)]
pub struct Fields {
    pub text: Field,
    /// [`room_key`].
    pub room: Field,
    /// [`event_key`] of the event itself.
    pub event: Field,
    /// [`event_key`] of the message that it says to replace.
    pub target: Field,
    /// Interned id of the event.
    pub sn: Field,
    /// `origin_server_ts` of the message, also in its replacements.
    pub at: Field,
    /// [`sender_key`].
    pub sender: Field,
    pub traits: Field,
}

impl Fields {
    fn schema() -> (Schema, Fields) {
        let mut schema = Schema::builder();
        let words = TextFieldIndexing::default()
            .set_tokenizer(WORDS)
            .set_index_option(IndexRecordOption::WithFreqsAndPositions);
        let text = TextOptions::default().set_indexing_options(words);
        let fields = Fields {
            text: schema.add_text_field("text", text),
            room: schema.add_u64_field("room", INDEXED | FAST),
            event: schema.add_u64_field("event", INDEXED | FAST),
            target: schema.add_u64_field("target", INDEXED),
            sn: schema.add_u64_field("sn", FAST),
            at: schema.add_u64_field("at", FAST),
            sender: schema.add_u64_field("sender", INDEXED | FAST),
            traits: schema.add_u64_field("traits", FAST),
        };
        (schema.build(), fields)
    }
}

/// A document.
#[derive(Clone, Debug)]
pub struct Document {
    pub text: String,
    pub room: u64,
    pub event: u64,
    pub target: Option<u64>,
    pub sn: u64,
    pub at: u64,
    pub sender: u64,
    pub traits: u64,
}

/// Stands for an identifier; 64 bits of BLAKE3, so that two are hardly ever the
/// same. What is found is looked up by its whole id before it is shown.
pub fn key(parts: [&str; 2]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(parts[0].as_bytes()).update(&[0]);
    hasher.update(parts[1].as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

pub fn room_key(room: &RoomId) -> u64 {
    key([room.as_str(), ""])
}

/// Of an event in a room: in the oldest room versions two rooms may have events
/// of the same id.
pub fn event_key(room: &RoomId, event: &EventId) -> u64 {
    key([room.as_str(), event.as_str()])
}

pub fn sender_key(sender: &ruma::UserId) -> u64 {
    key([sender.as_str(), ""])
}

/// The two bits of a key.
pub fn key_bits(key: SearchKey) -> u64 {
    match key {
        SearchKey::Body => 0,
        SearchKey::Name => 1,
        SearchKey::Topic => 2,
    }
}

/// How far *output* is in the index; travels inside the commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Payload {
    version: u32,
    epoch: u32,
    /// Offset of the next record, by partition.
    next: Vec<u64>,
}

/// The index, for those who search it. Its files stay readable for as long as
/// somebody holds it.
#[derive(Clone)]
pub struct Searching {
    pub index: Index,
    pub reader: IndexReader,
    pub fields: Fields,
}

/// The index, for the one who writes it.
pub struct Writing {
    pub searching: Searching,
    writer: IndexWriter,
    epoch: Epoch,
    /// Offset of the next record to be folded, by partition.
    pub next: Vec<u64>,
}

/// How often a folder is removed into which somebody still writes, and the pause
/// between two attempts: five seconds in all, as long as a large merge.
const REMOVALS_MAX: u32 = 250;
const REMOVAL_PAUSE: Duration = Duration::from_millis(20);

/// Opens the index, or empties a folder that has none that fits. `ends` is how
/// far *output* goes: an index that lies ahead of it is of another log.
pub fn open(folder: &Path, epoch: Epoch, ends: &[u64]) -> Result<Writing, IndexError> {
    if let Some((index, next)) = existing(folder, epoch, ends) {
        return writing(index, epoch, next);
    }
    remove(folder)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let index = Index::open_or_create(MmapDirectory::open(folder)?, Fields::schema().0)?;
    writing(index, epoch, vec![0; ends.len()])
}

/// Removes a folder with all that is in it; none is fine. A merge of an index that
/// was given up may go on for a moment, and put files where others were removed.
pub fn remove(folder: &Path) -> io::Result<()> {
    for _ in 0..REMOVALS_MAX {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                std::thread::sleep(REMOVAL_PAUSE);
            }
            done => return done,
        }
    }
    fs::remove_dir_all(folder)
}

/// An index and its cursors; none where there is no index that fits.
fn existing(folder: &Path, epoch: Epoch, ends: &[u64]) -> Option<(Index, Vec<u64>)> {
    let index = Index::open_in_dir(folder).ok()?;
    let payload = index.load_metas().ok()?.payload?;
    let payload: Payload = serde_json::from_str(&payload).ok()?;
    let fits = index.schema() == Fields::schema().0
        && payload.version == VERSION
        && payload.epoch == epoch.0
        && payload.next.len() == ends.len()
        && payload.next.iter().zip(ends).all(|(next, end)| next <= end);
    fits.then_some((index, payload.next))
}

/// An empty index in memory, to be searched while there is none on disk.
pub fn nothing() -> Result<Searching, IndexError> {
    searching(Index::create_in_ram(Fields::schema().0))
}

fn searching(index: Index) -> Result<Searching, IndexError> {
    index.tokenizers().register(WORDS, words::analyzer());
    let reader = index
        .reader_builder()
        .reload_policy(ReloadPolicy::Manual)
        .try_into()?;
    Ok(Searching {
        index,
        reader,
        fields: Fields::schema().1,
    })
}

fn writing(index: Index, epoch: Epoch, next: Vec<u64>) -> Result<Writing, IndexError> {
    let searching = searching(index)?;
    let options = IndexWriterOptions::builder()
        .memory_budget_per_thread(WRITER_BYTES)
        .num_worker_threads(1)
        .num_merge_threads(1)
        .build();
    let writer: IndexWriter = searching.index.writer_with_options(options)?;
    writer.set_merge_policy(Box::new(Merging::default()));
    Ok(Writing {
        searching,
        writer,
        epoch,
        next,
    })
}

impl Writing {
    /// Queues a document.
    pub fn add(&mut self, document: Document) -> Result<(), IndexError> {
        let fields = self.searching.fields;
        let mut added = TantivyDocument::default();
        added.add_text(fields.text, document.text);
        added.add_u64(fields.room, document.room);
        added.add_u64(fields.event, document.event);
        if let Some(target) = document.target {
            added.add_u64(fields.target, target);
        }
        added.add_u64(fields.sn, document.sn);
        added.add_u64(fields.at, document.at);
        added.add_u64(fields.sender, document.sender);
        added.add_u64(fields.traits, document.traits);
        self.writer.add_document(added)?;
        Ok(())
    }

    /// Queues the deletion of an event.
    pub fn delete_event(&mut self, event: u64) {
        let term = Term::from_field_u64(self.searching.fields.event, event);
        self.writer.delete_term(term);
    }

    /// Queues the deletion of what its sender says to replace an event.
    pub fn delete_replacements(&mut self, event: u64, sender: u64) -> Result<(), IndexError> {
        let fields = self.searching.fields;
        let both = [(fields.target, event), (fields.sender, sender)];
        let both = both.map(|(field, value)| -> Box<dyn Query> {
            let term = Term::from_field_u64(field, value);
            Box::new(TermQuery::new(term, IndexRecordOption::Basic))
        });
        let query = BooleanQuery::intersection(both.into());
        self.writer.delete_query(Box::new(query))?;
        Ok(())
    }

    /// Queues the deletion of all that is known of a room.
    pub fn delete_room(&mut self, room: u64) {
        let term = Term::from_field_u64(self.searching.fields.room, room);
        self.writer.delete_term(term);
    }

    /// Makes what was queued, and the cursors, durable and visible.
    pub fn commit(&mut self) -> Result<(), IndexError> {
        let payload = Payload {
            version: VERSION,
            epoch: self.epoch.0,
            next: self.next.clone(),
        };
        let payload = serde_json::to_string(&payload).map_err(io::Error::from)?;
        let mut prepared = self.writer.prepare_commit()?;
        prepared.set_payload(&payload);
        prepared.commit()?;
        self.searching.reader.reload()?;
        Ok(())
    }

    /// Has every segment written anew in which something was deleted, so that
    /// it leaves the disk. Goes on in the background.
    pub fn erase(&mut self) -> Result<usize, IndexError> {
        let segments = self.searching.index.searchable_segment_metas()?;
        let with_deleted = segments.iter().filter(|segment| segment.has_deletes());
        let mut begun = 0;
        for segment in with_deleted {
            // One that is being merged already is refused, and needs no other.
            drop(self.writer.merge(&[segment.id()]));
            begun += 1;
        }
        Ok(begun)
    }

    /// Compares all files with their checksums; reads each of them whole.
    pub fn check(&self) -> Result<(), IndexError> {
        let damaged = self.searching.index.validate_checksum()?;
        match damaged.is_empty() {
            true => Ok(()),
            false => Err(IndexError::Damaged(damaged.into_iter().collect())),
        }
    }

    /// Waits for merges, for tests that look at the files afterwards.
    #[cfg(test)]
    pub fn finish_merges(self) -> Result<(), IndexError> {
        Ok(self.writer.wait_merging_threads()?)
    }
}

/// Merges segments of like size, and writes anew what has something deleted.
#[derive(Debug)]
struct Merging(LogMergePolicy);

impl Default for Merging {
    fn default() -> Merging {
        let mut by_size = LogMergePolicy::default();
        by_size.set_max_docs_before_merge(SEGMENT_DOCUMENTS_MAX);
        Merging(by_size)
    }
}

impl MergePolicy for Merging {
    fn compute_merge_candidates(&self, segments: &[SegmentMeta]) -> Vec<MergeCandidate> {
        let mut candidates = self.0.compute_merge_candidates(segments);
        for segment in segments {
            let is_merged = candidates
                .iter()
                .any(|candidate| candidate.0.contains(&segment.id()));
            if !is_merged && segment.has_deletes() && segment.max_doc() <= ERASED_AT_ONCE_MAX {
                candidates.push(MergeCandidate(vec![segment.id()]));
            }
        }
        candidates
    }
}
