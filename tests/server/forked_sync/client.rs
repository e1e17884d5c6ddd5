//! A client that believes what it is told, and what must be true of that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use engram::matrix::filter::Filter;
use engram::query::rooms::Rooms;
use engram::query::visibility::{Viewer, Viewpoint};
use engram::readers::client_sync::{ClientSync, StateSection, SyncRequest};
use log_format::record::output::{Decision, Membership};
use ruma::{EventId, OwnedUserId};
use serde_json::{Value, json};

use super::house::House;
use super::{ROOM, room_id};

/// A client that believes what it is told.
pub struct Client {
    pub user: OwnedUserId,
    pub after: bool,
    pub limit: u32,
    pub since: Option<String>,
    pub state: BTreeMap<(String, String), String>,
    pub section: Option<&'static str>,
}

impl Client {
    pub async fn ask(&self, sync: &Arc<ClientSync>, since: Option<String>) -> Value {
        let filter = json!({"room": {"timeline": {"limit": self.limit}, "include_leave": true}});
        let request = SyncRequest {
            user: self.user.clone(),
            device: "DEVICE".into(),
            since,
            filter: Arc::new(Filter::parse(filter.to_string().as_bytes()).unwrap()),
            full_state: false,
            timeout: Duration::ZERO,
            state_section: StateSection::of(self.after),
            access: None,
        };
        serde_json::from_str(&sync.sync(request).await.unwrap()).unwrap()
    }

    pub async fn sync(&mut self, house: &House, sync: &Arc<ClientSync>) {
        house.follow(sync);
        let answer = self.ask(sync, self.since.clone()).await;
        self.since = answer["next_batch"].as_str().map(str::to_owned);
        for section in ["join", "invite", "knock", "leave"] {
            let Some(told) = answer["rooms"][section].get(ROOM) else {
                continue;
            };
            self.section = Some(section);
            let (section, applied) = match self.after {
                true => ("state_after", json!([])),
                false => ("state", told["timeline"]["events"].clone()),
            };
            let state = told[section]["events"].as_array().into_iter().flatten();
            for event in state.chain(applied.as_array().into_iter().flatten()) {
                if let Some(state_key) = event["state_key"].as_str() {
                    let text = |key: &str| event[key].as_str().unwrap().to_owned();
                    self.state
                        .insert((text("type"), state_key.to_owned()), text("event_id"));
                }
            }
            self.judge(house, &told["timeline"]["events"]);
        }
        self.check(house);
    }

    /// What a timeline shows was accepted, and the user may see it.
    fn judge(&self, house: &House, events: &Value) {
        let view = Viewpoint::new(&*house.rooms, room_id(), Viewer::User(&self.user));
        for event in events.as_array().into_iter().flatten() {
            let id = <&EventId>::try_from(event["event_id"].as_str().unwrap()).unwrap();
            let stored = house.rooms.event(room_id(), id).unwrap().unwrap();
            assert_eq!(stored.decision, Decision::Accepted);
            let own = stored.state_key.as_deref() == Some(self.user.as_str());
            let joined = self.section == Some("join");
            if joined && !own {
                assert!(view.may_see(&stored).unwrap(), "{} sees {id}", self.user);
            }
        }
    }

    fn check(&self, house: &House) {
        let head = house.head();
        let membership = head.authority.membership(&self.user);
        let section = membership.map(|membership| match membership {
            Membership::Join => "join",
            Membership::Invite => "invite",
            Membership::Knock => "knock",
            Membership::Leave | Membership::Ban => "leave",
        });
        match section {
            Some(section) => assert_eq!(self.section, Some(section), "{}", self.user),
            // Whose entry a resolution took away has left, if they were there.
            None => assert!(
                matches!(self.section, None | Some("leave")),
                "{}",
                self.user
            ),
        }
        if section == Some("join") {
            let truth = house.ids(&head.state);
            let mut state = self.state.clone();
            // The format has no word for a key that is gone.
            state.retain(|key, _| truth.contains_key(key));
            assert_eq!(state, truth, "{} after: {}", self.user, self.after);
        }
    }
}
