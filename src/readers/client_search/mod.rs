//! Client search: full-text search in the rooms of a user (client-server API,
//! *Server Side Search*).
//!
//! It follows *output* into an index of words in a folder of its own, which may
//! be deleted while the server is down: it is built anew. It runs behind the
//! other readers by design, mostly by less than a second: no answer of another
//! endpoint waits for it, and what was just sent may not be found yet. What was
//! redacted is not shown from the moment the redaction is accepted, whatever
//! the index still has: every result is looked up before it is shown.

mod collect;
mod fold;
mod follow;
mod hits;
mod index;
mod scope;
mod terms;
#[cfg(test)]
mod tests;
mod texts;
mod token;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use ruma::{OwnedRoomId, OwnedUserId};
use tantivy::TantivyError;

pub use self::collect::{Order, Standing};
pub use self::fold::FoldError;
pub use self::follow::spawn;
pub use self::index::IndexError;
pub use self::terms::TermTooLong;
pub use self::texts::SearchKey;

use self::collect::{Gather, Gathered};
use self::follow::{Follower, open_index};
use self::hits::Resolver;
use self::index::Searching;
use self::scope::SearchedRooms;
use self::terms::{Terms, Unranked};
use self::token::PageToken;
use crate::logs::log::Log;
use crate::matrix::filter::RoomEventFilter;
use crate::query::rooms::{QueryError, Rooms, StoredEvent};
use crate::query::tokens::{Epoch, TokenError};
use crate::query::unwanted::Unwanted;
use crate::query::users::Users;

/// With so few matches they are counted by looking at each; of more, those are
/// counted that lie in rooms where the user sees everything. So a count never
/// tells of what the user may not see.
const COUNTED_MAX: usize = 100;
/// Candidates of the first walk, at least; each further walk takes twice as many.
const CANDIDATES_FIRST: usize = 128;
/// Candidates that are looked up for one page. A page that finds nothing to show
/// among so many ends early, with a token to go on from.
const CANDIDATES_MAX: usize = 4_000;

/// Why a search is not answered.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    #[error(transparent)]
    Term(#[from] TermTooLong),
    /// `next_batch` cannot be read, or is of another request.
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error("search index: {0}")]
    Index(#[from] IndexError),
}

impl From<TantivyError> for SearchError {
    fn from(error: TantivyError) -> SearchError {
        SearchError::Index(error.into())
    }
}

/// A group of results.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    Room(OwnedRoomId),
    Sender(OwnedUserId),
}

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Search {
    pub user: OwnedUserId,
    pub term: String,
    pub keys: Vec<SearchKey>,
    pub filter: RoomEventFilter,
    pub order: Order,
    /// Most results at a time.
    pub limit: usize,
    /// A token of [`Found::next_batch`] or [`Search::group_token`].
    pub next_batch: Option<String>,
}

/// A result.
#[derive(Clone, Debug)]
pub struct Hit {
    pub room_id: OwnedRoomId,
    /// The message as it was sent, also where a replacement of it matched.
    pub event: Arc<StoredEvent>,
    /// Greater is closer.
    pub rank: f32,
    pub standing: Standing,
}

/// A page of results.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub hits: Vec<Hit>,
    /// How many there are on all pages, roughly.
    pub count: usize,
    pub highlights: Vec<String>,
    pub next_batch: Option<String>,
}

impl Search {
    /// The token of what stands behind a result in one group.
    pub fn group_token(&self, group: Group, last: &Hit) -> String {
        let token = PageToken {
            after: last.standing,
            group: Some(group),
        };
        token.encode(self)
    }

    /// A search for a term and nothing else, for tests.
    #[cfg(test)]
    pub fn plain(user: &ruma::UserId, term: &str) -> Search {
        Search {
            user: user.to_owned(),
            term: term.to_owned(),
            keys: SearchKey::ALL.to_vec(),
            filter: RoomEventFilter::default(),
            order: Order::Rank,
            limit: 10,
            next_batch: None,
        }
    }
}

/// What the reader is built from.
pub struct Ports {
    pub rooms: Arc<dyn Rooms>,
    pub users: Arc<dyn Users>,
    pub output: Arc<dyn Log>,
    /// Of the index; made if it is not there.
    pub folder: PathBuf,
    pub epoch: Epoch,
}

/// The reader. Shared by the task that follows *output* and by all requests.
pub struct ClientSearch {
    ports: Ports,
    /// Replaced where the index is built anew.
    searching: ArcSwap<Searching>,
    /// Locked for as long as a group is folded or committed; no request takes it.
    follower: Mutex<Follower>,
    /// How far the index that is searched goes, by partition.
    shown: Vec<AtomicU64>,
    /// A request could not read the index: its files are to be checked.
    is_suspect: AtomicBool,
}

impl ClientSearch {
    /// Opens the index as it was left, or an empty one where it does not fit
    /// *output*. Folds nothing yet. Where the disk has no room for an index,
    /// nothing is found until it has.
    pub fn open(ports: Ports) -> Result<ClientSearch, IndexError> {
        let opened = open_index(&ports)
            .inspect_err(|error| tracing::error!(%error, "search index does not open"))
            .ok();
        let searching = match &opened {
            Some(writing) => writing.searching.clone(),
            None => index::nothing()?,
        };
        let partitions = 0..ports.output.partitions() as usize;
        let next = opened.as_ref().map(|writing| writing.next.as_slice());
        let shown = partitions.map(|each| next.and_then(|next| next.get(each)).copied());
        Ok(ClientSearch {
            searching: ArcSwap::from_pointee(searching),
            shown: shown
                .map(|next| AtomicU64::new(next.unwrap_or(0)))
                .collect(),
            follower: Mutex::new(Follower::new(opened)),
            is_suspect: AtomicBool::new(false),
            ports,
        })
    }

    /// Finds a page of results. Blocks for as long as the disk takes.
    pub fn find(&self, search: &Search) -> Result<Found, SearchError> {
        let found = self.find_page(search);
        if let Err(SearchError::Index(error)) = &found {
            tracing::error!(%error, "search index could not be read");
            self.is_suspect
                .store(true, std::sync::atomic::Ordering::Release);
        }
        found
    }

    fn find_page(&self, search: &Search) -> Result<Found, SearchError> {
        let terms = Terms::parse(&search.term)?;
        let token = search.next_batch.as_deref();
        let token = token.map(|token| PageToken::decode(token, search));
        let token = token.transpose()?;
        let (after, group) = match token {
            None => (None, None),
            Some(token) => (Some(token.after), token.group),
        };
        let (rooms, users) = (&*self.ports.rooms, &*self.ports.users);
        let unwanted = Unwanted::of(users, &search.user);
        let searched = SearchedRooms::of(rooms, users, search, group.as_ref(), &unwanted)?;
        let mut found = Found {
            highlights: terms.highlights.clone(),
            ..Found::default()
        };
        if terms.is_empty() || searched.is_empty() {
            return Ok(found);
        }
        let searching = self.searching.load_full();
        let searcher = searching.reader.searcher();
        let query = terms.query(&searching.fields, searched.narrow.as_deref());
        let scope = Arc::new(searched.scope);
        let gather = |after, limit| -> Result<Gathered, SearchError> {
            let gather = Gather {
                scope: scope.clone(),
                order: search.order,
                after,
                limit,
            };
            Ok(searcher.search_with_statistics_provider(&*query, &gather, &Unranked)?)
        };
        let mut resolver = Resolver::new(
            rooms,
            &searching,
            &searcher,
            search,
            &unwanted,
            &searched.names,
        );
        let mut size = (2 * search.limit + 1).clamp(CANDIDATES_FIRST, CANDIDATES_MAX);
        let mut gathered = gather(after, size)?;
        found.count = self.count(&gathered, after, &gather, &mut resolver)?;
        let (mut last, mut looked) = (after, 0);
        let is_more = 'pages: loop {
            for candidate in &gathered.candidates {
                if looked >= CANDIDATES_MAX {
                    break 'pages true;
                }
                looked += 1;
                if let Some(hit) = resolver.resolve(candidate)? {
                    if found.hits.len() == search.limit {
                        break 'pages true;
                    }
                    found.hits.push(hit);
                }
                last = Some(candidate.standing);
            }
            if gathered.behind <= gathered.candidates.len() {
                break false;
            }
            size = (2 * size).min(CANDIDATES_MAX);
            gathered = gather(last, size)?;
        };
        found.next_batch = last.filter(|_| is_more).map(|after| {
            let token = PageToken { after, group };
            token.encode(search)
        });
        Ok(found)
    }

    /// See [`COUNTED_MAX`].
    fn count(
        &self,
        first: &Gathered,
        after: Option<Standing>,
        gather: &dyn Fn(Option<Standing>, usize) -> Result<Gathered, SearchError>,
        resolver: &mut Resolver<'_>,
    ) -> Result<usize, SearchError> {
        if first.matching > COUNTED_MAX {
            return Ok(first.open);
        }
        let all = match after {
            None => None,
            Some(_) => Some(gather(None, COUNTED_MAX)?),
        };
        let mut count = 0;
        for candidate in &all.as_ref().unwrap_or(first).candidates {
            count += usize::from(resolver.resolve(candidate)?.is_some());
        }
        Ok(count)
    }
}
