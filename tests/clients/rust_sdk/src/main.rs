//! matrix-rust-sdk talks through Engram by sliding sync: `rust-sdk-chat BASE_URL`.
//!
//! When all that can be done in one go is done, it prints `ready` and waits for
//! a line on its standard input; meanwhile the server is stopped and started
//! again at the same address. It goes on with the clients that it had. The
//! first thing that is not as it should be ends it with an error.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{Stream, StreamExt, pin_mut};
use matrix_sdk::config::{RequestConfig, SyncSettings};
use matrix_sdk::ruma::OwnedRoomId;
use matrix_sdk::ruma::api::client::account::register;
use matrix_sdk::ruma::api::client::room::create_room::v3::{Request as CreateRoom, RoomPreset};
use matrix_sdk::ruma::api::client::uiaa::{AuthData, Dummy};
use matrix_sdk::ruma::events::room::message::RoomMessageEventContent;
use matrix_sdk::{Client, Room};
use matrix_sdk_ui::eyeball_im::{Vector, VectorDiff};
use matrix_sdk_ui::room_list_service::filters::new_filter_non_left;
use matrix_sdk_ui::room_list_service::{RoomListItem, RoomListLoadingState};
use matrix_sdk_ui::sync_service::{State, SyncService};
use matrix_sdk_ui::timeline::{RoomExt, Timeline};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};
use tokio::time::timeout;

/// What takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);
const MESSAGES: usize = 45;
/// Events that one page asks for: fewer than there are.
const PAGE: u16 = 20;

#[tokio::main]
async fn main() -> Result<()> {
    let base = std::env::args()
        .nth(1)
        .context("usage: rust-sdk-chat BASE_URL")?;
    let alice = register(&base, "rust-alice").await?;
    let bob = register(&base, "rust-bob").await?;
    let mut rooms = Vec::new();
    for name in ["One", "Two", "Three"] {
        rooms.push(create(&alice, &bob, name).await?);
    }
    for room in &rooms[..2] {
        bob.join_room_by_id(room).await?;
    }

    let service = SyncService::builder(bob.clone())
        .with_offline_mode()
        .build()
        .await?;
    service.start().await;
    let list = service.room_list_service();
    let all = list.all_rooms().await?;
    let (entries, controller) = all.entries_with_dynamic_adapters(10);
    controller.set_filter(Box::new(new_filter_non_left()));
    pin_mut!(entries);
    let mut shown = Shown::default();
    // Those that he is in, and the one that he is invited to.
    shown
        .becomes(&mut entries, "the list has all rooms", |names| {
            names.len() == 3
        })
        .await?;
    let loaded = |state: &RoomListLoadingState| match state {
        RoomListLoadingState::Loaded {
            maximum_number_of_rooms,
        } => *maximum_number_of_rooms == Some(3),
        RoomListLoadingState::NotLoaded => false,
    };
    let mut loading = all.loading_state();
    while !loaded(&loading.get()) {
        timeout(PATIENCE, loading.next())
            .await
            .context("the list is not counted")?;
    }

    // A room comes to the top when something is said in it.
    for (room, name) in rooms.iter().zip(["One", "Two"]) {
        say(&alice, room, "hello").await?;
        let what = format!("{name} is on top");
        shown
            .becomes(&mut entries, &what, |names| {
                names.first().is_some_and(|top| top == name)
            })
            .await?;
    }
    bob.join_room_by_id(&rooms[2]).await?;

    // A timeline shows what comes, and what was.
    let room = &rooms[0];
    for number in 0..MESSAGES {
        say(&alice, room, &format!("message {number}")).await?;
    }
    list.subscribe_to_rooms(&[room]).await;
    let timeline = room_of(&bob, room)?.timeline().await?;
    let last = format!("message {}", MESSAGES - 1);
    becomes(&timeline, "the last message", |bodies| {
        bodies.last() == Some(&last)
    })
    .await?;
    let mut pages = 0;
    while !timeline.paginate_backwards(PAGE).await? {
        pages += 1;
        ensure!(pages < 20, "the room has no beginning");
    }
    let mut wanted = vec!["hello".to_owned()];
    wanted.extend((0..MESSAGES).map(|number| format!("message {number}")));
    ensure!(
        bodies(&timeline).await == wanted,
        "the timeline is {:?}",
        bodies(&timeline).await
    );
    timeline
        .send(RoomMessageEventContent::text_plain("an answer").into())
        .await?;
    becomes_sent(&timeline, "an answer").await?;
    let heard = last_message(&alice, room).await?;
    ensure!(heard == "an answer", "alice hears {heard:?}");

    println!("ready");
    let mut lines = BufReader::new(stdin()).lines();
    lines
        .next_line()
        .await?
        .context("the server did not come back")?;
    say(&alice, room, "still here").await?;
    becomes(&timeline, "the message after the restart", |bodies| {
        bodies.ends_with(&["an answer".to_owned(), "still here".to_owned()])
    })
    .await?;
    say(&alice, &rooms[1], "here too").await?;
    shown
        .becomes(&mut entries, "Two is on top again", |names| {
            names.first().is_some_and(|top| top == "Two")
        })
        .await?;
    let state = service.state().get();
    ensure!(matches!(state, State::Running), "the service is {state:?}");
    service.stop().await;
    Ok(())
}

async fn register(base: &str, name: &str) -> Result<Client> {
    let requests = RequestConfig::new().timeout(PATIENCE);
    let client = Client::builder()
        .homeserver_url(base)
        .request_config(requests)
        .build()
        .await?;
    let mut request = register::v3::Request::new();
    request.username = Some(name.to_owned());
    request.password = Some("correct horse battery".to_owned());
    request.auth = Some(AuthData::Dummy(Dummy::new()));
    client.matrix_auth().register(request).await?;
    Ok(client)
}

async fn create(by: &Client, invited: &Client, name: &str) -> Result<OwnedRoomId> {
    let mut request = CreateRoom::new();
    request.name = Some(name.to_owned());
    request.preset = Some(RoomPreset::PrivateChat);
    request.invite = vec![invited.user_id().context("logged in")?.to_owned()];
    Ok(by.create_room(request).await?.room_id().to_owned())
}

fn room_of(client: &Client, room: &OwnedRoomId) -> Result<Room> {
    client
        .get_room(room)
        .with_context(|| format!("no room {room}"))
}

async fn say(client: &Client, room: &OwnedRoomId, text: &str) -> Result<()> {
    let content = RoomMessageEventContent::text_plain(text);
    room_of(client, room)?.send(content).await?;
    Ok(())
}

/// The newest message as a client without sliding sync gets it.
async fn last_message(client: &Client, room: &OwnedRoomId) -> Result<String> {
    client.sync_once(SyncSettings::new()).await?;
    let options = matrix_sdk::room::MessagesOptions::backward();
    let page = room_of(client, room)?.messages(options).await?;
    let newest = page.chunk.first().context("the room is empty")?;
    let content: Option<RoomMessageEventContent> = newest.raw().get_field("content")?;
    Ok(content.context("no content")?.body().to_owned())
}

/// The room list as a screen would show it.
#[derive(Default)]
struct Shown(Vector<RoomListItem>);

impl Shown {
    fn names(&self) -> Vec<String> {
        let name = |item: &RoomListItem| item.cached_display_name().map(|name| name.to_string());
        self.0
            .iter()
            .map(|item| name(item).unwrap_or_default())
            .collect()
    }

    /// Follows the changes until the list looks as wanted.
    async fn becomes(
        &mut self,
        entries: &mut (impl Stream<Item = Vec<VectorDiff<RoomListItem>>> + Unpin),
        what: &str,
        wanted: impl Fn(&[String]) -> bool,
    ) -> Result<()> {
        while !wanted(&self.names()) {
            let Ok(Some(changes)) = timeout(PATIENCE, entries.next()).await else {
                bail!("waited in vain until {what}: {:?}", self.names());
            };
            for change in changes {
                change.apply(&mut self.0);
            }
        }
        Ok(())
    }
}

async fn bodies(timeline: &Timeline) -> Vec<String> {
    let items = timeline.items().await;
    let events = items.iter().filter_map(|item| item.as_event());
    let messages = events.filter_map(|event| event.content().as_message());
    messages.map(|message| message.body().to_owned()).collect()
}

async fn becomes(
    timeline: &Timeline,
    what: &str,
    wanted: impl Fn(&[String]) -> bool,
) -> Result<()> {
    let (_, changes) = timeline.subscribe().await;
    pin_mut!(changes);
    while !wanted(&bodies(timeline).await) {
        if !matches!(timeout(PATIENCE, changes.next()).await, Ok(Some(_))) {
            bail!("waited in vain for {what}: {:?}", bodies(timeline).await);
        }
    }
    Ok(())
}

/// Waits until a message is no echo any more but an event from the server.
async fn becomes_sent(timeline: &Timeline, body: &str) -> Result<()> {
    let (_, changes) = timeline.subscribe().await;
    pin_mut!(changes);
    loop {
        let items = timeline.items().await;
        let mut events = items.iter().filter_map(|item| item.as_event());
        let arrived = |event: &matrix_sdk_ui::timeline::EventTimelineItem| {
            let message = event.content().as_message();
            message.is_some_and(|message| message.body() == body) && !event.is_local_echo()
        };
        if events.any(arrived) {
            return Ok(());
        }
        if !matches!(timeout(PATIENCE, changes.next()).await, Ok(Some(_))) {
            bail!("{body:?} was not sent");
        }
    }
}
