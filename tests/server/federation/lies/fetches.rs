//! Every request that we make to other servers, by its path. A test holds this
//! list against the sources of `outbound/federation`.

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fetch {
    Keys,
    Notary,
    Version,
    MakeJoin,
    SendJoin,
    OldSendJoin,
    MakeKnock,
    SendKnock,
    MakeLeave,
    SendLeave,
    OldSendLeave,
    Invite,
    OldInvite,
    MissingEvents,
    StateIds,
    State,
    Event,
    EventAuth,
    Backfill,
    Timestamp,
    Profile,
    Directory,
    PublicRooms,
    Hierarchy,
    Send,
    PolicySign,
}

impl Fetch {
    pub const ALL: [Fetch; 26] = [
        Fetch::Keys,
        Fetch::Notary,
        Fetch::Version,
        Fetch::MakeJoin,
        Fetch::SendJoin,
        Fetch::OldSendJoin,
        Fetch::MakeKnock,
        Fetch::SendKnock,
        Fetch::MakeLeave,
        Fetch::SendLeave,
        Fetch::OldSendLeave,
        Fetch::Invite,
        Fetch::OldInvite,
        Fetch::MissingEvents,
        Fetch::StateIds,
        Fetch::State,
        Fetch::Event,
        Fetch::EventAuth,
        Fetch::Backfill,
        Fetch::Timestamp,
        Fetch::Profile,
        Fetch::Directory,
        Fetch::PublicRooms,
        Fetch::Hierarchy,
        Fetch::Send,
        Fetch::PolicySign,
    ];

    /// The path, with `{}` for each part that is another each time.
    pub fn path(self) -> &'static str {
        match self {
            Fetch::Keys => "/_matrix/key/v2/server",
            Fetch::Notary => "/_matrix/key/v2/query",
            Fetch::Version => "/_matrix/federation/v1/version",
            Fetch::MakeJoin => "/_matrix/federation/v1/make_join/{}/{}",
            Fetch::SendJoin => "/_matrix/federation/v2/send_join/{}/{}",
            Fetch::OldSendJoin => "/_matrix/federation/v1/send_join/{}/{}",
            Fetch::MakeKnock => "/_matrix/federation/v1/make_knock/{}/{}",
            Fetch::SendKnock => "/_matrix/federation/v1/send_knock/{}/{}",
            Fetch::MakeLeave => "/_matrix/federation/v1/make_leave/{}/{}",
            Fetch::SendLeave => "/_matrix/federation/v2/send_leave/{}/{}",
            Fetch::OldSendLeave => "/_matrix/federation/v1/send_leave/{}/{}",
            Fetch::Invite => "/_matrix/federation/v2/invite/{}/{}",
            Fetch::OldInvite => "/_matrix/federation/v1/invite/{}/{}",
            Fetch::MissingEvents => "/_matrix/federation/v1/get_missing_events/{}",
            Fetch::StateIds => "/_matrix/federation/v1/state_ids/{}",
            Fetch::State => "/_matrix/federation/v1/state/{}",
            Fetch::Event => "/_matrix/federation/v1/event/{}",
            Fetch::EventAuth => "/_matrix/federation/v1/event_auth/{}/{}",
            Fetch::Backfill => "/_matrix/federation/v1/backfill/{}",
            Fetch::Timestamp => "/_matrix/federation/v1/timestamp_to_event/{}",
            Fetch::Profile => "/_matrix/federation/v1/query/profile",
            Fetch::Directory => "/_matrix/federation/v1/query/directory",
            Fetch::PublicRooms => "/_matrix/federation/v1/publicRooms",
            Fetch::Hierarchy => "/_matrix/federation/v1/hierarchy/{}",
            Fetch::Send => "/_matrix/federation/v1/send/{}",
            Fetch::PolicySign => "/_matrix/policy/v1/sign",
        }
    }

    /// What a path asks for.
    pub fn of(path: &str) -> Option<Fetch> {
        let mut fetches = Fetch::ALL.into_iter();
        fetches.find(|fetch| fits(fetch.path(), path))
    }

    /// Whether nothing is asked of the other server before it.
    pub fn is_first(self) -> bool {
        use Fetch::*;
        match self {
            Keys | Version | MakeJoin | MakeKnock | MakeLeave | Invite | MissingEvents
            | Backfill | Timestamp | Profile | Directory | PublicRooms | Hierarchy | Send
            | PolicySign => true,
            Notary | SendJoin | OldSendJoin | SendKnock | SendLeave | OldSendLeave | OldInvite
            | StateIds | State | Event | EventAuth => false,
        }
    }

    /// Whether we go on whatever the answer is: the answer says nothing that we
    /// need, or there is another way to what we want.
    pub fn is_done_without(self) -> bool {
        use Fetch::*;
        match self {
            MakeLeave | SendLeave | OldSendLeave | Send | Version | MissingEvents | StateIds
            | State | Event | EventAuth | Backfill | Timestamp => true,
            // An empty answer is one: nobody has to show anything of a room or user.
            SendKnock | Profile => true,
            Keys | Notary | MakeJoin | SendJoin | OldSendJoin | MakeKnock | Invite | OldInvite
            | Directory | PublicRooms | Hierarchy | PolicySign => false,
        }
    }
}

/// Whether a path is one of a pattern, in which parts in braces stand for any text.
pub fn fits(pattern: &str, path: &str) -> bool {
    let (mut patterns, mut parts) = (pattern.split('/'), path.split('/'));
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return true,
            (Some(pattern), Some(part)) if part_fits(pattern, part) => {}
            _ => return false,
        }
    }
}

fn part_fits(pattern: &str, part: &str) -> bool {
    match (pattern.find('{'), pattern.rfind('}')) {
        (Some(from), Some(to)) => {
            part.starts_with(&pattern[..from]) && part.ends_with(&pattern[to + 1..])
        }
        _ => pattern == part,
    }
}

/// The paths that a source file asks for: its texts that begin as such paths do.
fn asked_in(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let code = source.lines().filter(|line| !line.trim().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n");
    let texts = code.split('"').skip(1).step_by(2);
    let paths = texts.filter(|text| text.starts_with("/_matrix/"));
    paths.map(str::to_owned).collect()
}

/// Whoever adds a request adds it here, and the lies that can be told about it.
#[test]
fn the_list_names_every_request_of_the_sources() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/outbound/federation");
    let mut asked = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.ends_with("tests.rs") {
            continue;
        }
        let source = std::fs::read_to_string(path).unwrap();
        asked.extend(asked_in(&source));
    }
    assert!(asked.len() > 15, "the sources are read: {asked:?}");
    for path in &asked {
        // A word of the path that is put in is one of those that the list has.
        let known = Fetch::ALL
            .into_iter()
            .filter(|fetch| fits(path, fetch.path()));
        assert!(known.count() > 0, "{path} is asked for and not in the list");
    }
    for fetch in Fetch::ALL {
        let is_asked = asked.iter().any(|path| fits(path, fetch.path()));
        assert!(is_asked, "nothing asks for {}", fetch.path());
    }
}
