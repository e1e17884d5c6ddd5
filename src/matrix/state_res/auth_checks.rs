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
use super::work::{CHECK, SIGNATURE};
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
    let judged = events.get(node)?.clone();
    let Some(deciding) = Deciding::of(events, node, &judged, sources)? else {
        return Ok(false);
    };
    if judged.kind == AuthKind::PowerLevels {
        // Every level is compared with the one in force.
        let new = events.levels(node)?;
        let levels = [new.as_deref(), deciding.levels.as_deref()];
        let count = levels.into_iter().flatten().map(entries_count).sum();
        events.work.spend(count)?;
    }
    let event = &*judged.event;
    let create = events.create;
    let judged = AuthEvent {
        event_id: &event.event_id,
        room_id: &create.room_id,
        sender: &event.sender,
        kind: &event.kind,
        state_key: Some(&event.state_key),
        content: EventContent::Parsed(&event.content),
        prev_events_count: event.prev_events_count,
        first_prev_event: event.first_prev_is_create.then(|| create.event_id.as_str()),
        redacts: event.redacts.as_deref(),
    };
    Ok(auth_rules::check(create.version, &judged, &deciding).is_ok())
}

/// Whether a member event is one that an authorising user or a third party's
/// token has a part in.
fn has_more_deciders(membership: Membership, event: &ResolutionEvent) -> bool {
    match membership {
        Membership::Join => event
            .content
            .contains_key("join_authorised_via_users_server"),
        Membership::Invite => event.content.contains_key("third_party_invite"),
        Membership::Leave | Membership::Ban | Membership::Knock => false,
    }
}

impl<'a> Deciding<'a> {
    /// Gathers what decides about an event; none if it is malformed, which
    /// nothing allows.
    fn of<'r: 'a, R: Room>(
        events: &mut Events<'r, R>,
        node: Node,
        judged: &'a Known,
        sources: Sources,
    ) -> Result<Option<Deciding<'a>>, ResolveError<R::Error>> {
        let mut deciding = Deciding {
            create: events.create,
            levels: None,
            join_rule: JoinRule::Invite,
            members: SmallVec::new(),
            invite: None,
        };
        let event = &*judged.event;
        let mut member = None;
        if judged.kind == AuthKind::Member {
            let Some(membership) = judged.membership else {
                return Ok(None);
            };
            if !has_more_deciders(membership, event) {
                deciding.add_plain(events, node, judged, membership, sources)?;
                return Ok(Some(deciding));
            }
            member = MemberContent::parse(&event.content).ok();
        }
        for key in auth_types_for_event(
            events.create.version,
            &event.kind,
            &event.sender,
            Some(&event.state_key),
            member,
        ) {
            deciding.add(events, node, key, sources)?;
        }
        if let (Some((_, invite)), Some(member)) = (&deciding.invite, member) {
            // Each signature is tried with each key, and both may be many.
            let tries = signatures_count(&member) * invite.public_keys.len() as u64;
            events.work.spend(tries * SIGNATURE)?;
        }
        Ok(Some(deciding))
    }

    /// The keys that [`auth_types_for_event`] names for a member event in which
    /// nobody else has a part, by their numbers: nearly all events that are in
    /// conflict in large rooms are such.
    fn add_plain<R: Room>(
        &mut self,
        events: &mut Events<'_, R>,
        node: Node,
        judged: &'a Known,
        membership: Membership,
        sources: Sources,
    ) -> Result<(), ResolveError<R::Error>> {
        let event = &*judged.event;
        self.add_levels(events, node, sources)?;
        if !judged.is_of_sender() {
            let sender = event.sender.as_str();
            let slot = events.keys.member(sender);
            self.add_member(events, node, slot, sender.into(), sources)?;
        }
        let target = &*event.state_key;
        self.add_member(events, node, judged.slot, target.into(), sources)?;
        if let Membership::Join | Membership::Invite | Membership::Knock = membership {
            self.add_join_rules(events, node, sources)?;
        }
        Ok(())
    }

    /// Adds the holder of one key that decides about an event.
    fn add<R: Room>(
        &mut self,
        events: &mut Events<'_, R>,
        node: Node,
        key: AuthKey<'a>,
        sources: Sources,
    ) -> Result<(), ResolveError<R::Error>> {
        match key.kind {
            // It was given with the room.
            "m.room.create" => Ok(()),
            "m.room.power_levels" => self.add_levels(events, node, sources),
            "m.room.join_rules" => self.add_join_rules(events, node, sources),
            "m.room.member" => {
                let slot = events.keys.member(&key.state_key);
                self.add_member(events, node, slot, key.state_key, sources)
            }
            other => {
                let slot = events.keys.slot(other, &key.state_key);
                let kind = AuthKind::ThirdPartyInvite;
                if let Some(holder) = holder_of(events, node, slot, kind, sources)? {
                    let event = &events.get(holder)?.event;
                    self.invite = Some((key.state_key, third_party_invite(event)));
                }
                Ok(())
            }
        }
    }

    fn add_levels<R: Room>(
        &mut self,
        events: &mut Events<'_, R>,
        node: Node,
        sources: Sources,
    ) -> Result<(), ResolveError<R::Error>> {
        let kind = AuthKind::PowerLevels;
        if let Some(holder) = holder_of(events, node, POWER_LEVELS, kind, sources)? {
            self.levels = events.levels(holder)?;
        }
        Ok(())
    }

    fn add_join_rules<R: Room>(
        &mut self,
        events: &mut Events<'_, R>,
        node: Node,
        sources: Sources,
    ) -> Result<(), ResolveError<R::Error>> {
        if let Some(holder) = holder_of(events, node, JOIN_RULES, AuthKind::JoinRules, sources)? {
            self.join_rule = JoinRule::parse(&events.get(holder)?.event.content);
        }
        Ok(())
    }

    fn add_member<R: Room>(
        &mut self,
        events: &mut Events<'_, R>,
        node: Node,
        slot: Slot,
        user: Cow<'a, str>,
        sources: Sources,
    ) -> Result<(), ResolveError<R::Error>> {
        if let Some(holder) = holder_of(events, node, slot, AuthKind::Member, sources)? {
            let membership = events.get(holder)?.membership;
            self.members
                .extend(membership.map(|membership| (user, membership)));
        }
        Ok(())
    }
}

/// How many signatures a third party's invite has.
fn signatures_count(member: &MemberContent<'_>) -> u64 {
    let signatures = || {
        let signed = member.third_party_invite?.as_object()?.get("signed")?;
        signed.as_object()?.get("signatures")?.as_object()
    };
    let by_entity = signatures()
        .into_iter()
        .flat_map(|entities| entities.values());
    let counts = by_entity.map(|keys| keys.as_object().map_or(0, |keys| keys.len()));
    counts.sum::<usize>() as u64
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
