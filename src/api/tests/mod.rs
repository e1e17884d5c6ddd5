//! The router, driven from outside over fakes of its ports.

mod accounts;
mod bad_input;
mod browsers;
mod fuzz;
mod sessions;
mod sync;
mod user_data;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::header::{AUTHORIZATION, HeaderMap};
use http::{Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{Api, Ports, Registration, Settings, router};
use crate::crypto::ServerKey;
use crate::query::deliveries::fake::Deaf;
use crate::query::ephemeral::fake::Silence;
use crate::query::receipts::fake::NoReceipts;
use crate::query::relations::fake::NoRelations;
use crate::readers::client_sync::ClientSync;
use crate::readers::user_directory::UserDirectory;
use crate::writers::client::presence_setter::{PresenceSetter, Timing};
use crate::writers::client::typing_setter::TypingSetter;
use crate::writers::ephemeral::EphemeralWriter;
use crate::writers::federation::given_state::GivenStates;
use crate::writers::federation::keyring::Keyring;
use crate::writers::federation::missing::{MissingEvents, Parts as MissingParts};
use crate::writers::federation::pdu_checks::PduChecks;
use crate::writers::federation::policy_servers::PolicyServers;
use crate::writers::federation::queries::Queries;
use crate::writers::federation::remote_rooms::{Parts as RemoteParts, RemoteRooms};
use crate::writers::submit::Submitter;
use crate::writers::testing::{Forgetful, World};

/// A password that every test account has.
pub(crate) const PASSWORD: &str = "correct horse battery";

/// The doors of a server named `hs`.
pub(crate) struct Doors {
    pub router: Router,
    pub world: Arc<World>,
}

/// An answer, its body read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    /// `(status, errcode)` of an error.
    pub fn error(&self) -> (u16, &str) {
        let code = self.body["errcode"].as_str().unwrap_or("");
        (self.status.as_u16(), code)
    }

    pub fn ok(self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        self.body
    }
}

impl Doors {
    /// Open registration, no rate limits.
    pub fn open() -> Doors {
        Doors::with(|settings| {
            settings.registration.open = true;
            settings.rate_limits_enabled = false;
        })
    }

    pub fn with(change: impl FnOnce(&mut Settings)) -> Doors {
        let mut settings = Settings::new("hs".try_into().unwrap());
        settings.registration = Registration::default();
        change(&mut settings);
        let world = Arc::new(World::default());
        let submitter = Submitter::new(world.clone(), world.clone());
        let ephemeral = EphemeralWriter::new(Arc::<Forgetful>::default(), Arc::new(Silence));
        let timing = Timing {
            idle_after: Duration::from_secs(300),
            offline_after: Duration::from_secs(30),
        };
        let (keyring, client) = Keyring::without_others(submitter.clone());
        let keyring = Arc::new(keyring);
        let checks = PduChecks::new(keyring.clone());
        let policies = PolicyServers::new(world.clone(), client.clone());
        let missing = MissingEvents::new(MissingParts {
            own: settings.server_name.clone(),
            rooms: world.clone(),
            client: client.clone(),
            checks: checks.clone(),
            given: GivenStates::new(checks, world.clone(), submitter.clone()),
            policies: policies.clone(),
            submitter: submitter.clone(),
        });
        let ports = Ports {
            missing,
            policies,
            remote: RemoteRooms::new(RemoteParts {
                client: client.clone(),
                keyring: keyring.clone(),
                rooms: world.clone(),
                submitter: submitter.clone(),
            }),
            rooms: world.clone(),
            graph: world.clone(),
            users: world.clone(),
            receipts: Arc::new(NoReceipts),
            relations: Arc::new(NoRelations),
            submitter,
            typing_setter: TypingSetter::new(world.clone(), ephemeral.clone()),
            presence_setter: PresenceSetter::new(true, timing, &settings.server_name, ephemeral),
            remote_presence: None,
            ephemeral: Arc::new(Silence),
            signing_key: Arc::new(ServerKey::from_seed([1; 32], "a_1")),
            sync_positions: world.clone(),
            sync: ClientSync::in_memory(world.clone(), world.clone(), world.clone()),
            search: None,
            user_directory: UserDirectory::in_memory(world.clone(), world.clone(), world.clone()),
            keyring,
            queries: Queries::new(client),
            ears: Arc::new(Deaf),
        };
        Doors {
            router: router(Api::new(ports, settings)),
            world,
        }
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 24).await.unwrap();
        let body = match bytes.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&bytes).expect("answers are JSON"),
        };
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    /// `path` is taken under `/_matrix/client` unless it begins with `/.` or `/_`.
    pub async fn call(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: impl Into<Body>,
    ) -> Answer {
        let absolute = path.starts_with("/.") || path.starts_with("/_");
        let prefix = if absolute { "" } else { "/_matrix/client" };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{prefix}{path}"));
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    pub async fn get(&self, path: &str, token: &str) -> Answer {
        self.call("GET", path, Some(token), Body::empty()).await
    }

    pub async fn post(&self, path: &str, token: Option<&str>, body: Value) -> Answer {
        self.call("POST", path, token, body.to_string()).await
    }

    pub async fn put(&self, path: &str, token: &str, body: Value) -> Answer {
        self.call("PUT", path, Some(token), body.to_string()).await
    }

    /// Registers `@name:hs`; answers user id, device id and tokens.
    pub async fn register(&self, name: &str) -> Value {
        let body = json!({
            "username": name,
            "password": PASSWORD,
            "auth": { "type": "m.login.dummy" },
        });
        self.post("/v3/register", None, body).await.ok()
    }

    /// Registers without a password, which costs no hash; answers the access token.
    pub async fn token_without_password(&self, name: &str) -> String {
        let body = json!({ "username": name, "auth": { "type": "m.login.dummy" } });
        let session = self.post("/v3/register", None, body).await.ok();
        session["access_token"].as_str().unwrap().to_owned()
    }

    /// A new access token, whatever became of the last one.
    pub async fn register_or_log_in(&self, name: &str) -> String {
        let login = json!({ "type": "m.login.password", "user": name, "password": PASSWORD });
        let answer = self.post("/v3/login", None, login).await;
        match answer.body["access_token"].as_str() {
            Some(token) => token.to_owned(),
            None => self.token_of(name).await,
        }
    }

    /// Registers and answers the access token alone.
    pub async fn token_of(&self, name: &str) -> String {
        let session = self.register(name).await;
        session["access_token"].as_str().unwrap().to_owned()
    }
}
