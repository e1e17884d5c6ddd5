//! What the doors need of the configuration.

use std::time::Duration;

use crate::api::extract::BodyPatience;
use crate::api::{Contact, Registration, Settings, Support, Turn};
use crate::config::Config;

/// See the fields of [`Settings`].
pub fn of(config: &Config) -> Settings {
    let mut settings = Settings::new(config.identity.server_name.clone());
    settings.public_base_url = config.client.public_url.clone();
    let registration = &config.registration;
    settings.registration = Registration {
        open: registration.open,
        token: registration
            .token
            .as_ref()
            .map(|token| token.expose().to_owned()),
        guests: registration.guests,
    };
    settings.turn = turn(config);
    settings.support = support(config);
    settings.serves_public_rooms = config.federation.public_rooms;
    settings.server_bodies = server_bodies(config);
    settings.delegated_to = config.federation.delegate_to.clone();
    settings.default_room_version = config.rooms.default_version.clone();
    settings.access_token_lifetime =
        Duration::from_secs(u64::from(config.client.access_token_seconds.0));
    settings.rate_limits_enabled = config.rate_limits.enabled;
    settings.trust_forwarded_for = config.client.trust_forwarded_for;
    if let Some(contact) = &config.identity.admin_contact {
        settings.admin_contact = contact.clone();
    }
    settings
}

/// How long the doors wait for the bodies of other servers.
fn server_bodies(config: &Config) -> BodyPatience {
    BodyPatience {
        idle: Duration::from_secs(config.federation.body_idle_seconds.0.into()),
        total: Duration::from_secs(config.federation.body_seconds.0.into()),
    }
}

/// The TURN server, if one is configured whole.
fn turn(config: &Config) -> Option<Turn> {
    let (turn, secret) = (&config.turn, config.turn.secret.as_ref()?);
    (!turn.uris.is_empty()).then(|| Turn {
        uris: turn.uris.clone(),
        secret: secret.expose().to_owned(),
        lifetime: Duration::from_secs(u64::from(turn.user_lifetime.0)),
    })
}

fn support(config: &Config) -> Support {
    let support = &config.support;
    let contact = |role, matrix_id: &Option<String>, email: &Option<String>| {
        (matrix_id.is_some() || email.is_some()).then(|| Contact {
            role,
            matrix_id: matrix_id.clone(),
            email: email.clone(),
        })
    };
    let (admin, security) = (
        contact(
            "m.role.admin",
            &support.admin_matrix_id,
            &support.admin_email,
        ),
        contact(
            "m.role.security",
            &support.security_matrix_id,
            &support.security_email,
        ),
    );
    Support {
        page: support.page.clone(),
        contacts: admin.into_iter().chain(security).collect(),
    }
}
