//! A world to search in: that of client sync's tests, and an index of it.

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::Instant;

use ruma::{EventId, OwnedEventId, RoomId, UserId};
use serde_json::{Value, json};
use tantivy::{Index, Term};

use crate::query::tokens::Epoch;
use crate::readers::client_search::follow::Next;
use crate::readers::client_search::{ClientSearch, Found, Ports, Search};
use crate::readers::client_sync::tests::fake_rooms::How;
use crate::readers::client_sync::tests::world::World;

pub struct SearchWorld {
    pub world: World,
    pub search: ClientSearch,
    folder: tempfile::TempDir,
}

impl Deref for SearchWorld {
    type Target = World;
    fn deref(&self) -> &World {
        &self.world
    }
}

impl DerefMut for SearchWorld {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.world
    }
}

fn open(world: &World, folder: &Path, epoch: u32) -> ClientSearch {
    let ports = Ports {
        rooms: world.rooms.clone(),
        users: world.users.clone(),
        output: world.log.clone(),
        folder: folder.join("search"),
        epoch: Epoch(epoch),
    };
    ClientSearch::open(ports).expect("a folder to write in")
}

impl SearchWorld {
    pub fn new(partitions: u32) -> SearchWorld {
        let world = World::new(partitions);
        let folder = tempfile::tempdir().expect("a folder");
        SearchWorld {
            search: open(&world, folder.path(), 1),
            world,
            folder,
        }
    }

    pub fn folder(&self) -> std::path::PathBuf {
        self.folder.path().join("search")
    }

    /// Ends the reader without a commit, as a crash would, and begins anew.
    pub fn restart(&mut self, epoch: u32) {
        // The writer's lock is one of the process: the old one goes first.
        let idle = tempfile::tempdir().expect("a folder");
        self.search = open(&self.world, idle.path(), epoch);
        self.search = open(&self.world, self.folder.path(), epoch);
    }

    /// One step of the follower, which may or may not commit.
    pub fn step(&self) -> Next {
        self.search.step(Instant::now()).expect("folds")
    }

    /// Folds all there is, and shows it.
    pub fn follow(&self) {
        while self.search.behind() > 0 {
            if let Next::Wait(until) = self.step() {
                self.search.step(until).expect("commits");
            }
        }
    }

    pub fn find(&self, user: &UserId, term: &str) -> Vec<OwnedEventId> {
        ids(&self.found(&Search::plain(user, term)))
    }

    pub fn found(&self, search: &Search) -> Found {
        self.search.find(search).expect("an answer")
    }

    /// All pages of a search, one after the other.
    pub fn pages(&self, search: &Search) -> Vec<Found> {
        let mut search = search.clone();
        let mut pages = vec![self.found(&search)];
        while let Some(next) = pages.last().and_then(|page| page.next_batch.clone()) {
            search.next_batch = Some(next);
            pages.push(self.found(&search));
        }
        pages
    }

    pub fn edit(
        &mut self,
        room: &RoomId,
        sender: &UserId,
        target: &EventId,
        text: &str,
    ) -> OwnedEventId {
        let content = json!({
            "msgtype": "m.text",
            "body": format!("* {text}"),
            "m.new_content": { "msgtype": "m.text", "body": text },
            "m.relates_to": { "rel_type": "m.replace", "event_id": target },
        });
        self.message(room, sender, content)
    }

    pub fn message(&mut self, room: &RoomId, sender: &UserId, content: Value) -> OwnedEventId {
        let how = How::default();
        self.send(room, sender, "m.room.message", None, content, how)
    }

    /// In how many documents of the files a word occurs, deleted ones included.
    pub fn on_disk(&self, word: &str) -> u64 {
        let index = Index::open_in_dir(self.folder()).expect("an index");
        let text = index.schema().get_field("text").expect("a field");
        let searcher = index.reader().expect("a reader").searcher();
        let term = Term::from_field_text(text, word);
        searcher.doc_freq(&term).expect("readable")
    }
}

pub fn ids(found: &Found) -> Vec<OwnedEventId> {
    let hits = found.hits.iter();
    hits.map(|hit| hit.event.event_id.clone()).collect()
}

/// Of results that are one.
pub fn only(id: &EventId) -> Vec<OwnedEventId> {
    vec![id.to_owned()]
}
