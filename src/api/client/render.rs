//! Events of a room as an answer has them; see [`crate::query::shown`].

use super::visible::RoomView;
use crate::api::auth::Auth;
use crate::clock::now_ms;
use crate::query::shown::Show;

/// Shows events of a view to the device that asks.
pub fn show<'a>(view: &'a RoomView<'_>, auth: &'a Auth) -> Show<'a> {
    Show {
        viewpoint: &view.viewpoint,
        user: auth.user_id(),
        device: auth.device_id(),
        now_ms: now_ms(),
        names_room: true,
        relations: Some(view.relations),
    }
}
