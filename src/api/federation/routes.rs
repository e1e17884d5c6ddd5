//! The one table of the server-server API. Everything in it is signed by the
//! server that asks ([`super::auth`]), but for what is listed as public here.

use axum::routing::{get, post, put};

use super::history::{events, states, timestamps, walks};
use super::{
    invites, joins, knocks, leaves, public_rooms, queries, server_keys, spaces, third_party,
    transactions, version,
};
use crate::api::client::routes::Table;

/// Adds the table to the router's.
#[rustfmt::skip]
pub fn add(table: &mut Table) {
    // Public: servers are asked for these before anybody has keys.
    table.add(["/.well-known/matrix/server"], get(version::well_known));
    table.add(["/_matrix/federation/v1/version"], get(version::version));
    table.add(["/_matrix/key/v2/server"], get(server_keys::own));
    // The key id in the path was taken out of the specification; old servers send it.
    table.add(["/_matrix/key/v2/server/{keyId}"], get(server_keys::own));
    table.add(["/_matrix/key/v2/query/{serverName}"], get(server_keys::notarised));
    table.add(["/_matrix/key/v2/query/{serverName}/{keyId}"], get(server_keys::notarised_key));
    table.add(["/_matrix/key/v2/query"], post(server_keys::notarised_batch));

    // Joining, knocking, leaving through us
    table.add(["/_matrix/federation/v1/make_join/{roomId}/{userId}"], get(joins::make));
    table.add(["/_matrix/federation/v2/send_join/{roomId}/{eventId}"], put(joins::send));
    // As servers asked before version 2 of it was specified; the same for leaves.
    table.add(["/_matrix/federation/v1/send_join/{roomId}/{eventId}"], put(joins::old_send));
    table.add(["/_matrix/federation/v1/make_knock/{roomId}/{userId}"], get(knocks::make));
    table.add(["/_matrix/federation/v1/send_knock/{roomId}/{eventId}"], put(knocks::send));
    table.add(["/_matrix/federation/v1/make_leave/{roomId}/{userId}"], get(leaves::make));
    table.add(["/_matrix/federation/v2/send_leave/{roomId}/{eventId}"], put(leaves::send));
    table.add(["/_matrix/federation/v1/send_leave/{roomId}/{eventId}"], put(leaves::old_send));

    // Inviting our users
    table.add(["/_matrix/federation/v2/invite/{roomId}/{eventId}"], put(invites::invite));
    table.add(["/_matrix/federation/v1/invite/{roomId}/{eventId}"], put(invites::old_invite));
    table.add(["/_matrix/federation/v1/exchange_third_party_invite/{roomId}"], put(third_party::exchange));

    // History
    table.add(["/_matrix/federation/v1/event/{eventId}"], get(events::event));
    table.add(["/_matrix/federation/v1/event_auth/{roomId}/{eventId}"], get(events::event_auth));
    table.add(["/_matrix/federation/v1/state/{roomId}"], get(states::state));
    table.add(["/_matrix/federation/v1/state_ids/{roomId}"], get(states::state_ids));
    table.add(["/_matrix/federation/v1/backfill/{roomId}"], get(walks::backfill));
    table.add(["/_matrix/federation/v1/get_missing_events/{roomId}"], post(walks::missing_events));
    table.add(["/_matrix/federation/v1/timestamp_to_event/{roomId}"], get(timestamps::timestamp_to_event));

    // Transactions
    table.add(["/_matrix/federation/v1/send/{txnId}"], put(transactions::send));

    // Queries
    table.add(["/_matrix/federation/v1/query/profile"], get(queries::profile));
    table.add(["/_matrix/federation/v1/query/directory"], get(queries::directory));
    table.add(["/_matrix/federation/v1/publicRooms"], get(public_rooms::list).post(public_rooms::search));
    table.add(["/_matrix/federation/v1/hierarchy/{roomId}"], get(spaces::hierarchy));
}
