//! The one table of the client-server API: path and method to handler. That of
//! the server-server API is added to it, since both listeners serve both.
//!
//! Paths are served under `v3` and, for older clients, `r0`; those that came
//! with `v1` only there. What is not in the table is 404, another method of a
//! path in it 405, both `M_UNRECOGNIZED`.

use axum::Router;
use axum::routing::{MethodRouter, get, post, put};

use super::{
    account, account_data, admin, create_room, devices, directory, discovery, filters, login,
    membership, messages, mutual_rooms, notifications, openid, presence, profile, public_rooms,
    push_rules, receipts, register, room_state, rooms, send, sync, tags, third_party_lookup,
    typing, upgrade, voip,
};
use super::{old_sync, reports};
use super::{
    relations, search, sliding_sync, spaces, summary, threads, timestamps, user_directory,
};
use crate::api::{ApiState, federation};

/// The router, and its paths for the metrics.
pub struct Routes {
    pub router: Router<ApiState>,
    pub paths: Vec<&'static str>,
}

macro_rules! v3 {
    ($path:literal) => {
        [
            concat!("/_matrix/client/v3", $path),
            concat!("/_matrix/client/r0", $path),
        ]
    };
}

macro_rules! v1 {
    ($path:literal) => {
        [concat!("/_matrix/client/v1", $path)]
    };
}

/// The table.
#[rustfmt::skip]
pub fn routes() -> Routes {
    let mut table = Table::default();

    // Server discovery
    table.add(["/.well-known/matrix/client"], get(discovery::well_known));
    table.add(["/.well-known/matrix/support"], get(discovery::support));
    table.add(["/_matrix/client/versions"], get(discovery::versions));
    table.add(v3!("/capabilities"), get(discovery::capabilities));

    // Session management
    table.add(v3!("/login"), get(login::flows).post(login::log_in));
    table.add(v3!("/refresh"), post(login::refresh));
    table.add(v3!("/logout"), post(login::log_out));
    table.add(v3!("/logout/all"), post(login::log_out_all));

    // Account management
    table.add(v3!("/register"), post(register::register));
    table.add(v3!("/register/available"), get(register::available));
    table.add(v1!("/register/m.login.registration_token/validity"), get(register::token_validity));
    table.add(v3!("/account/whoami"), get(account::whoami));
    table.add(v3!("/account/password"), post(account::set_password));
    table.add(v3!("/account/deactivate"), post(account::deactivate));
    table.add(v3!("/account/3pid"), get(account::third_party_ids));
    table.add(v3!("/devices"), get(devices::list));
    table.add(v3!("/devices/{deviceId}"), get(devices::one).put(devices::rename).delete(devices::remove));
    table.add(v3!("/delete_devices"), post(devices::remove_many));

    // Syncing
    table.add(v3!("/sync"), get(sync::sync));
    table.add(v3!("/events"), get(old_sync::events));
    table.add(v3!("/events/{eventId}"), get(old_sync::event));
    table.add(v3!("/initialSync"), get(old_sync::initial_sync));
    table.add(v3!("/rooms/{roomId}/initialSync"), get(old_sync::room_initial_sync));
    table.add(["/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"],
        post(sliding_sync::unstable));
    table.add(["/_matrix/client/v4/sync"], post(sliding_sync::accepted));

    // User data
    table.add(v3!("/profile/{userId}"), get(profile::all));
    table.add(v3!("/profile/{userId}/{keyName}"),
        get(profile::field).put(profile::set_field).delete(profile::remove_field));
    table.add(v3!("/user/{userId}/account_data/{type}"),
        get(account_data::global).put(account_data::set_global));
    table.add(v3!("/user/{userId}/rooms/{roomId}/account_data/{type}"),
        get(account_data::of_room).put(account_data::set_of_room));
    table.add(v3!("/user/{userId}/rooms/{roomId}/tags"), get(tags::all));
    table.add(v3!("/user/{userId}/rooms/{roomId}/tags/{tag}"), put(tags::set).delete(tags::remove));
    table.add(v3!("/user/{userId}/openid/request_token"), post(openid::request_token));
    table.add(["/_matrix/federation/v1/openid/userinfo"], get(openid::user_info));
    table.add(v1!("/mutual_rooms"), get(mutual_rooms::mutual_rooms));
    table.add(v3!("/presence/{userId}/status"), get(presence::status).put(presence::set_status));
    table.add(v3!("/user/{userId}/filter"), post(filters::add));
    table.add(v3!("/user/{userId}/filter/{filterId}"), get(filters::one));

    // Push rules and notifications
    table.add(v3!("/notifications"), get(notifications::list));
    table.add(v3!("/pushrules/"), get(push_rules::all));
    table.add(v3!("/pushrules/global/"), get(push_rules::global));
    table.add(v3!("/pushrules/global/{kind}/"), get(push_rules::of_kind));
    table.add(v3!("/pushrules/global/{kind}/{ruleId}"),
        get(push_rules::rule).put(push_rules::put).delete(push_rules::remove));
    table.add(v3!("/pushrules/global/{kind}/{ruleId}/enabled"),
        get(push_rules::enabled).put(push_rules::set_enabled));
    table.add(v3!("/pushrules/global/{kind}/{ruleId}/actions"),
        get(push_rules::actions).put(push_rules::set_actions));

    // What other modules bring
    table.add(v3!("/voip/turnServer"), get(voip::turn_server));
    table.add(v3!("/thirdparty/protocols"), get(third_party_lookup::protocols));
    for path in [
        v3!("/thirdparty/protocol/{protocol}"),
        v3!("/thirdparty/location/{protocol}"),
        v3!("/thirdparty/user/{protocol}"),
    ] {
        table.add(path, get(third_party_lookup::of_protocol));
    }
    for path in [v3!("/thirdparty/location"), v3!("/thirdparty/user")] {
        table.add(path, get(third_party_lookup::reverse));
    }
    table.add(v3!("/admin/whois/{userId}"), get(admin::whois));

    // Rooms: creation, aliases, directory
    table.add(v3!("/createRoom"), post(create_room::create_room));
    table.add(v3!("/directory/room/{roomAlias}"),
        get(directory::resolve).put(directory::create).delete(directory::remove));
    table.add(v3!("/rooms/{roomId}/aliases"), get(directory::aliases));
    table.add(v3!("/directory/list/room/{roomId}"),
        get(directory::listing).put(directory::set_listing));
    table.add(v3!("/publicRooms"), get(public_rooms::list).post(public_rooms::search));

    table.add(v1!("/rooms/{roomId}/hierarchy"), get(spaces::hierarchy));
    table.add(v1!("/room_summary/{roomIdOrAlias}"), get(summary::summary));
    for path in ["/_matrix/client/unstable/im.nheko.summary/summary/{roomIdOrAlias}",
        "/_matrix/client/unstable/im.nheko.summary/rooms/{roomIdOrAlias}/summary"] {
        table.add([path], get(summary::unstable_summary));
    }
    table.add(v3!("/rooms/{roomId}/upgrade"), post(upgrade::upgrade));

    // Searching
    table.add(v3!("/search"), post(search::search));
    table.add(v3!("/user_directory/search"), post(user_directory::search));

    // Rooms: membership
    table.add(v3!("/join/{roomIdOrAlias}"), post(membership::join_by_id_or_alias));
    table.add(v3!("/knock/{roomIdOrAlias}"), post(membership::knock));
    table.add(v3!("/rooms/{roomId}/join"), post(membership::join_by_id));
    table.add(v3!("/rooms/{roomId}/invite"), post(membership::invite));
    table.add(v3!("/rooms/{roomId}/leave"), post(membership::leave));
    table.add(v3!("/rooms/{roomId}/kick"), post(membership::kick));
    table.add(v3!("/rooms/{roomId}/ban"), post(membership::ban));
    table.add(v3!("/rooms/{roomId}/unban"), post(membership::unban));
    table.add(v3!("/rooms/{roomId}/forget"), post(membership::forget));
    table.add(v3!("/joined_rooms"), get(rooms::joined_rooms));

    // Rooms: sending events
    table.add(v3!("/rooms/{roomId}/send/{eventType}/{txnId}"), put(send::send));
    table.add(v3!("/rooms/{roomId}/send/{eventType}"), post(send::send_once));
    table.add(v3!("/rooms/{roomId}/redact/{eventId}/{txnId}"), put(send::redact));
    table.add(v3!("/rooms/{roomId}/redact/{eventId}"), post(send::redact_once));

    // Rooms: typing, receipts and read markers
    table.add(v3!("/rooms/{roomId}/typing/{userId}"), put(typing::typing));
    table.add(v3!("/rooms/{roomId}/receipt/{receiptType}/{eventId}"), post(receipts::receipt));
    table.add(v3!("/rooms/{roomId}/read_markers"), post(receipts::read_markers));

    // Rooms: reading events and state. An empty state key may lack its slash.
    table.add(v3!("/rooms/{roomId}/state"), get(room_state::all));
    for path in [v3!("/rooms/{roomId}/state/{eventType}"), v3!("/rooms/{roomId}/state/{eventType}/")] {
        table.add(path, get(room_state::get_empty_key).put(room_state::put_empty_key));
    }
    table.add(v3!("/rooms/{roomId}/state/{eventType}/{stateKey}"),
        get(room_state::get_with_key).put(room_state::put_with_key));
    table.add(v3!("/rooms/{roomId}/event/{eventId}"), get(rooms::event));
    table.add(v3!("/rooms/{roomId}/members"), get(rooms::members));
    table.add(v3!("/rooms/{roomId}/joined_members"), get(rooms::joined_members));
    table.add(v3!("/rooms/{roomId}/messages"), get(messages::messages));
    table.add(v3!("/rooms/{roomId}/context/{eventId}"), get(messages::context));
    table.add(v1!("/rooms/{roomId}/timestamp_to_event"), get(timestamps::timestamp_to_event));

    // Rooms: how events relate
    table.add(v1!("/rooms/{roomId}/relations/{eventId}"), get(relations::any));
    table.add(v1!("/rooms/{roomId}/relations/{eventId}/{relType}"), get(relations::of_type));
    table.add(v1!("/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}"),
        get(relations::of_type_and_kind));
    table.add(v1!("/rooms/{roomId}/threads"), get(threads::threads));

    // Reports
    table.add(v3!("/rooms/{roomId}/report"), post(reports::room));
    table.add(v3!("/rooms/{roomId}/report/{eventId}"), post(reports::event));
    table.add(v3!("/users/{userId}/report"), post(reports::user));

    federation::routes::add(&mut table);
    table.finish()
}

/// A router in the making.
#[derive(Default)]
pub struct Table {
    router: Router<ApiState>,
    paths: Vec<&'static str>,
}

impl Table {
    /// Adds paths that the same methods serve.
    pub fn add<const N: usize>(
        &mut self,
        paths: [&'static str; N],
        methods: MethodRouter<ApiState>,
    ) {
        for path in paths {
            let router = std::mem::take(&mut self.router);
            self.router = router.route(path, methods.clone());
            self.paths.push(path);
        }
    }

    fn finish(self) -> Routes {
        Routes {
            router: self.router,
            paths: self.paths,
        }
    }
}
