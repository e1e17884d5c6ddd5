//! User-interactive authentication: stages, flows, and the bounded memory of
//! those under way (client-server API, *User-Interactive Authentication API*).
//!
//! A session belongs to one operation of one user; another user, or the same
//! one doing something else, is refused.

use std::time::Instant;

use parking_lot::Mutex;
use quick_cache::unsync::Cache;
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::errors::ApiError;
use super::limits::{UIA_SESSION_LIFETIME, UIA_SESSIONS_MAX};
use crate::crypto::random::session_id;

/// One step of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Dummy,
    RegistrationToken,
    Password,
}

impl Stage {
    const ALL: [Stage; 3] = [Stage::Dummy, Stage::RegistrationToken, Stage::Password];

    /// The specification's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Dummy => "m.login.dummy",
            Stage::RegistrationToken => "m.login.registration_token",
            Stage::Password => "m.login.password",
        }
    }

    fn parse(name: &str) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| stage.name() == name)
    }
}

/// The ways to authorise an operation; each is its stages in order.
pub type Flows = &'static [&'static [Stage]];

/// For what a session authorises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub name: &'static str,
    /// The user whose access token came along, if the operation wants one.
    pub user: Option<OwnedUserId>,
    /// What it is done to, if there is a choice: agreeing to lose one device is
    /// not agreeing to lose another.
    pub target: Option<Target>,
}

/// A digest of what an operation is done to, of the same size for any list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target(blake3::Hash);

impl Target {
    /// Of these ids, in this order.
    pub fn of<'a>(ids: impl IntoIterator<Item = &'a str>) -> Target {
        let mut hasher = blake3::Hasher::new();
        for id in ids {
            hasher.update(&(id.len() as u64).to_le_bytes());
            hasher.update(id.as_bytes());
        }
        Target(hasher.finalize())
    }
}

/// The user identifier object (client-server API, *Identifier types*), and the
/// deprecated fields that may stand in its place.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Identifier {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub user: Option<String>,
    pub medium: Option<String>,
    pub address: Option<String>,
}

/// The `auth` object of a request.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct AuthData {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub session: Option<String>,
    /// Of `m.login.registration_token`.
    pub token: Option<String>,
    /// Of `m.login.password`.
    pub identifier: Option<Identifier>,
    /// Deprecated form of `identifier`.
    pub user: Option<String>,
    /// Of `m.login.password`.
    pub password: Option<String>,
}

/// The answer while stages are missing.
#[derive(Debug)]
pub struct Challenge {
    pub session: String,
    pub flows: Flows,
    pub completed: Vec<Stage>,
    /// Code and text if a stage was tried in vain.
    pub failure: Option<(&'static str, &'static str)>,
}

impl Challenge {
    /// `flows`, `params`, `session` and, once something was tried, `completed`.
    pub fn to_json(&self) -> Map<String, Value> {
        let names = |stages: &[Stage]| stages.iter().map(|s| s.name()).collect::<Vec<_>>();
        let flow = |stages: &&[Stage]| json!({ "stages": names(stages) });
        let mut object = Map::new();
        object.insert("flows".to_owned(), self.flows.iter().map(flow).collect());
        object.insert("params".to_owned(), json!({}));
        object.insert("session".to_owned(), json!(self.session));
        if !self.completed.is_empty() || self.failure.is_some() {
            object.insert("completed".to_owned(), json!(names(&self.completed)));
        }
        object
    }
}

#[derive(Clone)]
struct Session {
    operation: Operation,
    completed: Vec<Stage>,
    started: Instant,
}

/// Sessions under way, in memory only: after a restart a client begins anew.
pub struct UiaSessions {
    sessions: Mutex<Cache<String, Session>>,
}

impl Default for UiaSessions {
    fn default() -> UiaSessions {
        UiaSessions {
            sessions: Mutex::new(Cache::new(UIA_SESSIONS_MAX)),
        }
    }
}

impl UiaSessions {
    /// Passes once a flow is complete; the session is spent with it.
    ///
    /// `verify` judges the data of a stage: `Ok(false)` is a failed attempt
    /// that may be repeated. `m.login.dummy` is not asked about. A request may
    /// name its first stage without a session, as clients do where one stage
    /// is all there is.
    ///
    /// Errors: `InteractiveAuth` with what is still due; `Forbidden` if the
    /// session belongs to another operation; or what `verify` says.
    pub async fn authorize(
        &self,
        operation: Operation,
        flows: Flows,
        auth: Option<&AuthData>,
        verify: impl AsyncFnOnce(Stage, &AuthData) -> Result<bool, ApiError>,
    ) -> Result<(), ApiError> {
        let no_auth = AuthData::default();
        let auth = auth.unwrap_or(&no_auth);
        let (id, mut session) = match self.resume(auth, &operation) {
            Ok(resumed) => resumed,
            Err(NoSession::Foreign) => {
                return Err(ApiError::Forbidden(
                    "This authentication session belongs to another operation",
                ));
            }
            Err(NoSession::Unknown) => {
                let failure = ("M_UNKNOWN", "Unknown or expired session");
                let (id, session) = fresh(operation);
                return Err(self.challenge(id, session, flows, Some(failure)));
            }
        };
        let Some(kind) = &auth.kind else {
            if is_complete(flows, &session.completed) {
                return self.spend(&id);
            }
            return Err(self.challenge(id, session, flows, None));
        };
        let Some(stage) = Stage::parse(kind).filter(|s| is_next(flows, &session.completed, *s))
        else {
            // A stage that was completed is not done again; another one is out of order.
            let done = session.completed.iter().any(|stage| stage.name() == kind);
            let failure = ("M_FORBIDDEN", "This stage is not part of any flow here");
            return Err(self.challenge(id, session, flows, (!done).then_some(failure)));
        };
        if stage != Stage::Dummy && !verify(stage, auth).await? {
            let text = match stage {
                Stage::Password => "Invalid username or password",
                Stage::RegistrationToken | Stage::Dummy => "Invalid registration token",
            };
            return Err(self.challenge(id, session, flows, Some(("M_FORBIDDEN", text))));
        }
        session.completed.push(stage);
        if is_complete(flows, &session.completed) {
            return self.spend(&id);
        }
        Err(self.challenge(id, session, flows, None))
    }

    fn resume(
        &self,
        auth: &AuthData,
        operation: &Operation,
    ) -> Result<(String, Session), NoSession> {
        let Some(id) = &auth.session else {
            return Ok(fresh(operation.clone()));
        };
        let sessions = self.sessions.lock();
        let session = sessions.get(id).ok_or(NoSession::Unknown)?;
        if session.started.elapsed() >= UIA_SESSION_LIFETIME {
            return Err(NoSession::Unknown);
        }
        if session.operation != *operation {
            return Err(NoSession::Foreign);
        }
        Ok((id.clone(), session.clone()))
    }

    fn spend(&self, id: &str) -> Result<(), ApiError> {
        self.sessions.lock().remove(id);
        Ok(())
    }

    fn challenge(
        &self,
        id: String,
        session: Session,
        flows: Flows,
        failure: Option<(&'static str, &'static str)>,
    ) -> ApiError {
        let completed = session.completed.clone();
        self.sessions.lock().insert(id.clone(), session);
        ApiError::InteractiveAuth(Box::new(Challenge {
            session: id,
            flows,
            completed,
            failure,
        }))
    }
}

/// Why the session named is of no use.
enum NoSession {
    /// There is none, or not any more.
    Unknown,
    /// It is of another operation.
    Foreign,
}

fn fresh(operation: Operation) -> (String, Session) {
    let session = Session {
        operation,
        completed: Vec::new(),
        started: Instant::now(),
    };
    (session_id(), session)
}

fn is_next(flows: Flows, completed: &[Stage], stage: Stage) -> bool {
    flows.iter().any(|flow| {
        flow.strip_prefix(completed)
            .is_some_and(|rest| rest.first() == Some(&stage))
    })
}

fn is_complete(flows: Flows, completed: &[Stage]) -> bool {
    flows.contains(&completed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: Flows = &[&[Stage::RegistrationToken, Stage::Dummy]];

    fn operation(user: Option<&str>) -> Operation {
        Operation {
            name: "test",
            user: user.map(|user| user.try_into().unwrap()),
            target: None,
        }
    }

    fn auth(kind: Option<&str>, session: Option<&str>) -> AuthData {
        AuthData {
            kind: kind.map(str::to_owned),
            session: session.map(str::to_owned),
            ..AuthData::default()
        }
    }

    #[derive(Debug)]
    enum Refusal {
        Due(Challenge),
        Forbidden,
    }

    impl Refusal {
        fn due(self) -> Challenge {
            match self {
                Refusal::Due(challenge) => challenge,
                Refusal::Forbidden => panic!("forbidden"),
            }
        }
    }

    async fn attempt(
        uia: &UiaSessions,
        operation: Operation,
        auth: AuthData,
        good: bool,
    ) -> Result<(), Refusal> {
        let verify = async |_: Stage, _: &AuthData| Ok(good);
        match uia.authorize(operation, TWO, Some(&auth), verify).await {
            Ok(()) => Ok(()),
            Err(ApiError::InteractiveAuth(challenge)) => Err(Refusal::Due(*challenge)),
            Err(ApiError::Forbidden(_)) => Err(Refusal::Forbidden),
            Err(other) => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn stages_are_done_in_order_and_once() {
        let uia = UiaSessions::default();
        let op = || operation(None);
        let token = "m.login.registration_token";
        let first = attempt(&uia, op(), auth(None, None), true).await;
        let first = first.unwrap_err().due();
        assert!(first.failure.is_none() && first.completed.is_empty());
        let id = first.session.as_str();
        // The second stage first: refused.
        let early = attempt(&uia, op(), auth(Some("m.login.dummy"), Some(id)), true).await;
        assert_eq!(early.unwrap_err().due().failure.unwrap().0, "M_FORBIDDEN");
        let wrong = attempt(&uia, op(), auth(Some(token), Some(id)), false).await;
        let wrong = wrong.unwrap_err().due();
        assert_eq!(wrong.to_json()["completed"], json!([]));
        let half = attempt(&uia, op(), auth(Some(token), Some(id)), true).await;
        assert_eq!(
            half.unwrap_err().due().completed,
            [Stage::RegistrationToken]
        );
        // A completed stage is answered with what is completed.
        let again = attempt(&uia, op(), auth(Some(token), Some(id)), true).await;
        let again = again.unwrap_err().due();
        assert_eq!(again.completed, [Stage::RegistrationToken]);
        assert!(again.failure.is_none());
        attempt(&uia, op(), auth(Some("m.login.dummy"), Some(id)), true)
            .await
            .unwrap();
        // Spent.
        let spent = attempt(&uia, op(), auth(Some("m.login.dummy"), Some(id)), true).await;
        assert_ne!(spent.unwrap_err().due().session, id);
    }

    #[tokio::test]
    async fn a_session_is_no_use_to_another_user_or_for_something_else() {
        let uia = UiaSessions::default();
        let token = Some("m.login.registration_token");
        let about = |user: &str, devices: &[&str]| Operation {
            target: Some(Target::of(devices.iter().copied())),
            ..operation(Some(user))
        };
        let mine = about("@alice:hs", &["A", "B"]);
        let first = attempt(&uia, mine.clone(), auth(token, None), true).await;
        let first = first.unwrap_err().due();
        let go_on = || auth(Some("m.login.dummy"), Some(&first.session));
        let others = [
            about("@bob:hs", &["A", "B"]),
            about("@alice:hs", &["A"]),
            about("@alice:hs", &["AB"]),
            operation(Some("@alice:hs")),
        ];
        for other in others {
            let refused = attempt(&uia, other, go_on(), true).await;
            assert!(matches!(refused, Err(Refusal::Forbidden)));
        }
        attempt(&uia, mine, go_on(), true).await.unwrap();
    }
}
