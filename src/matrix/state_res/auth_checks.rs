//! Whether the state resolved so far allows an event.

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::SmallVec;

use super::super::Membership;
use super::super::auth_rules::{
    self, AuthEvent, AuthKey, AuthState, CreateInfo, EventContent, JoinRule, MemberContent,
    PowerLevels, ThirdPartyInvite, auth_types_for_event,
};
use super::super::ids::UserId;
use super::events::{Events, Known, Node, entries_count};
use super::keys::{JOIN_RULES, POWER_LEVELS, Slot};
use super::work::CHECK;
use super::{AuthKind, ResolutionEvent, ResolveError, Room};

/// What an event is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sources {
    /// What all states agree on.
    pub agreed: bool,
    /// Where the state has nothing, what the event itself cites.
    pub cited: bool,
}

/// The state that decides about one event, parsed.
struct Deciding<'a> {
    create: &'a CreateInfo,
    levels: Option<Arc<PowerLevels>>,
    join_rule: JoinRule,
    members: SmallVec<[(Cow<'a, str>, Membership); 4]>,
    invite: Option<(Cow<'a, str>, ThirdPartyInvite)>,
}

impl AuthState for Deciding<'_> {
    fn create(&self) -> Option<&CreateInfo> {
        Some(self.create)
    }
    fn power_levels(&self) -> Option<&PowerLevels> {
        self.levels.as_deref()
    }
    fn join_rule(&self) -> JoinRule {
        self.join_rule
    }
    fn membership(&self, user: &UserId) -> Option<Membership> {
        let mut members = self.members.iter();
        let found = members.find(|(member, _)| *member == user.as_str());
        found.map(|(_, membership)| *membership)
    }
    fn third_party_invite(&self, token: &str) -> Option<ThirdPartyInvite> {
        let (held, invite) = self.invite.as_ref()?;
        (*held == token).then(|| invite.clone())
    }
}

/// Whether the state so far allows an event.
pub(super) fn is_allowed<R: Room>(
    events: &mut Events<'_, R>,
    node: Node,
    sources: Sources,
) -> Result<bool, ResolveError<R::Error>> {
    events.work.spend(CHECK)?;
    let event = events.get(node)?.event.clone();
    let member = match &*event.kind {
        "m.room.member" => match MemberContent::parse(&event.content) {
            Ok(member) => Some(member),
            Err(_) => return Ok(false),
        },
        _ => None,
    };
    let version = events.create.version;
    let keys = auth_types_for_event(
        version,
        &event.kind,
        &event.sender,
        Some(&event.state_key),
        member,
    );
    let mut deciding = Deciding {
        create: events.create,
        levels: None,
        join_rule: JoinRule::Invite,
        members: SmallVec::new(),
        invite: None,
    };
    for key in keys {
        deciding.add(events, node, key, sources)?;
    }
    if AuthKind::of(&event.kind, &event.state_key) == AuthKind::PowerLevels {
        // Every level is compared with the one in force.
        let new = events.levels(node)?;
        let levels = [new.as_deref(), deciding.levels.as_deref()];
        let count = levels.into_iter().flatten().map(entries_count).sum();
        events.work.spend(count)?;
    }
    let judged = AuthEvent {
        event_id: &event.event_id,
        room_id: &events.create.room_id,
        sender: &event.sender,
        kind: &event.kind,
        state_key: Some(&event.state_key),
        content: EventContent::Parsed(&event.content),
        prev_events_count: event.prev_events_count,
        first_prev_event: event
            .first_prev_is_create
            .then(|| events.create.event_id.as_str()),
        redacts: event.redacts.as_deref(),
    };
    Ok(auth_rules::check(version, &judged, &deciding).is_ok())
}

impl<'a> Deciding<'a> {
    /// Adds the holder of one key that decides about an event.
    fn add<R: Room>(
        &mut self,
        events: &mut Events<'_, R>,
        judged: Node,
        key: AuthKey<'a>,
        sources: Sources,
    ) -> Result<(), ResolveError<R::Error>> {
        let (slot, kind) = match key.kind {
            // It was given with the room.
            "m.room.create" => return Ok(()),
            "m.room.power_levels" => (POWER_LEVELS, AuthKind::PowerLevels),
            "m.room.join_rules" => (JOIN_RULES, AuthKind::JoinRules),
            "m.room.member" => (events.keys.member(&key.state_key), AuthKind::Member),
            other => (
                events.keys.slot(other, &key.state_key),
                AuthKind::ThirdPartyInvite,
            ),
        };
        let Some(holder) = holder_of(events, judged, slot, kind, sources)? else {
            return Ok(());
        };
        let known = events.get(holder)?;
        match kind {
            AuthKind::PowerLevels => self.levels = events.levels(holder)?,
            AuthKind::JoinRules => self.join_rule = JoinRule::parse(&known.event.content),
            AuthKind::Member => {
                let membership = known.membership;
                self.members
                    .extend(membership.map(|membership| (key.state_key, membership)));
            }
            _ => self.invite = Some((key.state_key, third_party_invite(&known.event))),
        }
        Ok(())
    }
}

fn third_party_invite(event: &ResolutionEvent) -> ThirdPartyInvite {
    ThirdPartyInvite::parse(event.sender.clone(), &event.content)
}

/// Who holds a key for an event that is judged: the state so far, else what the
/// event cites. Rejected events do not count.
fn holder_of<R: Room>(
    events: &mut Events<'_, R>,
    judged: Node,
    slot: Slot,
    kind: AuthKind,
    sources: Sources,
) -> Result<Option<Node>, ResolveError<R::Error>> {
    let mut holder = events.keys.at(slot).resolved;
    if holder.is_none() && sources.agreed {
        holder = events.agreed(slot)?;
    }
    if let Some(holder) = holder
        && !events.get(holder)?.event.rejected
    {
        return Ok(Some(holder));
    }
    if !sources.cited {
        return Ok(None);
    }
    let counts = |known: &Known| known.slot == slot && !known.event.rejected;
    // Of two that hold the same key, the later one counts.
    for at in events.cited(judged)?.rev() {
        let cited = events.edge(at);
        if events.kind(cited)? == Some(kind) && events.find(cited)?.is_some_and(counts) {
            return Ok(Some(cited));
        }
    }
    Ok(None)
}

/// *Iterative auth checks*: puts each event that is allowed into the state.
pub(super) fn iterate<R: Room>(
    events: &mut Events<'_, R>,
    sorted: &[Node],
    sources: Sources,
) -> Result<(), ResolveError<R::Error>> {
    for &node in sorted {
        if is_allowed(events, node, sources)? {
            let slot = events.get(node)?.slot;
            events.keys.at_mut(slot).resolved = Some(node);
        }
    }
    Ok(())
}
