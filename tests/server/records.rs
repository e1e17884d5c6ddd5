//! Random *input* records of rooms, users and aliases, the same for the same
//! seed. Most are sensible, some are refused, and keys meet often.

use engram::crypto::ServerKey;
use engram::logs::log::{Append, NewRecord};
use engram::matrix::canonical_json::to_bytes;
use engram::matrix::server_keys::published;
use log_format::codec;
use log_format::record::envelope::Part;
use log_format::record::input::*;
use log_format::record::{Kind, NewEnvelope, Source};
use ruma::ServerName;

use crate::forked_rooms::ForkedRoom;
use crate::room_records::Room;

/// A small generator (SplitMix64), so that a seed means the same for ever.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

pub fn hash(number: u64) -> TokenHash {
    *blake3::hash(&number.to_le_bytes()).as_bytes()
}

pub fn user(number: u64) -> String {
    format!("@user{number}:example.org")
}

/// One of each room version that the forked rooms have.
const FORKED_ROOMS: u64 = 6;

/// A record with its partition key.
pub struct Keyed {
    pub key: String,
    pub record: NewRecord,
}

/// Encodes a record of a client.
pub fn keyed<T: bincode::Encode>(kind: Kind, body: &T, envelope: NewEnvelope<'_>) -> Keyed {
    let body = codec::encode(body);
    let key = envelope.key.to_owned();
    let record = NewRecord::new(
        kind,
        Source::Client,
        &NewEnvelope {
            body: &body,
            ..envelope
        },
    );
    Keyed { key, record }
}

/// `count` records: half of them of linear and of forked rooms, half of about
/// `count / 80` users.
pub fn random_records(seed: u64, count: usize) -> Vec<Keyed> {
    let mut random = Random(seed);
    let users = (count as u64 / 80).max(2);
    let mut records = Vec::with_capacity(count + 32);
    let mut rooms = Vec::new();
    for number in 0..8 {
        let (room, made) = Room::create(seed * 100 + number, &mut random);
        rooms.push(room);
        records.extend(made);
    }
    let mut forked = Vec::new();
    for number in 0..FORKED_ROOMS {
        let (room, made) = ForkedRoom::create(seed * 102 + number, &mut random);
        forked.push(room);
        records.extend(made);
    }
    let mut purged = Purged::create(seed * 104, &mut random, &mut records);
    while records.len() < count {
        if random.below(12) == 0 {
            records.extend(purged.next(&mut random));
            continue;
        }
        let what = random.below(8);
        let room = random.below(8) as usize;
        let fork = random.below(FORKED_ROOMS) as usize;
        records.push(match what {
            0..2 => rooms[room].next(&mut random),
            2..5 => forked[fork].next(&mut random),
            _ => one(&mut random, users),
        });
    }
    records.truncate(count);
    records
}

fn one(random: &mut Random, users: u64) -> Keyed {
    let who = user(random.below(users));
    let device_id = format!("DEVICE{}", random.below(3));
    let room = format!("!room{}:example.org", random.below(5));
    let content = format!(r#"{{"value":{}}}"#, random.below(1000));
    let alias = format!("#alias{}:example.org", random.below(users));
    let plain = NewEnvelope {
        key: &who,
        sender: Some(&who),
        received_us: 1_700_000_000_000_000,
        // Requests meet now and then, as a registration and its login do.
        idempotency: [random.below(4) as u8; 16],
        ..NewEnvelope::default()
    };
    let with_content = NewEnvelope {
        body_part: Part::Present(content.as_bytes()),
        salt: hash(random.next()),
        ..plain.clone()
    };
    let tokens = Tokens {
        access: hash(random.next()),
        access_expires_ms: None,
        refresh: Some(hash(random.below(50))),
    };
    match random.below(122) {
        116.. => outside(random, &room, &who),
        100..104 => keyed(
            Kind::InputReport,
            &InputReport {
                about: (random.below(2) == 0).then(|| user(random.below(users))),
                score: Some(-(random.below(100) as i32)),
            },
            NewEnvelope {
                room_id: Some(&room),
                ..with_content
            },
        ),

        0..10 => keyed(
            Kind::InputAccountCreated,
            &InputAccountCreated {
                password_hash: Some("$argon2id$".to_owned()),
                guest: random.below(10) == 0,
                admin: random.below(10) == 0,
            },
            plain,
        ),
        10..15 => keyed(
            Kind::InputPasswordSet,
            &InputPasswordSet {
                password_hash: format!("$argon2id${}", random.below(9)),
            },
            plain,
        ),
        15..17 => keyed(
            Kind::InputAccountDeactivated,
            &InputAccountDeactivated {
                erase: random.below(2) == 0,
            },
            plain,
        ),
        17..30 => keyed(
            Kind::InputDeviceLoggedIn,
            &InputDeviceLoggedIn {
                device_id,
                display_name: Some("phone".to_owned()),
                tokens,
            },
            plain,
        ),
        30..36 => keyed(
            Kind::InputTokensRefreshed,
            &InputTokensRefreshed {
                device_id,
                spent: hash(random.below(50)),
                tokens,
            },
            plain,
        ),
        36..40 => keyed(
            Kind::InputDevicesRemoved,
            &InputDevicesRemoved {
                device_ids: (random.below(2) == 0).then(|| vec![device_id.clone()]),
                except: Some(device_id),
            },
            plain,
        ),
        40..55 => keyed(
            Kind::InputProfileField,
            &InputProfileField {
                field: "displayname".to_owned(),
            },
            if random.below(5) == 0 {
                plain
            } else {
                with_content
            },
        ),
        55..75 => keyed(
            Kind::InputAccountData,
            &InputAccountData {},
            NewEnvelope {
                event_type: Some("org.example.data"),
                room_id: (random.below(2) == 0).then_some(room.as_str()),
                ..with_content
            },
        ),
        75..80 => keyed(
            Kind::InputFilter,
            &InputFilter {
                filter_id: format!("filter{}", random.below(4)),
            },
            with_content,
        ),
        80..85 => keyed(
            Kind::InputRoomForgotten,
            &InputRoomForgotten {},
            NewEnvelope {
                room_id: Some(&room),
                ..plain
            },
        ),
        85..96 => keyed(
            Kind::InputAliasCreated,
            &InputAliasCreated {
                servers: vec!["example.org".to_owned()],
            },
            NewEnvelope {
                key: &alias,
                room_id: Some(&room),
                ..plain
            },
        ),
        96..100 => keyed(
            Kind::InputAliasRemoved,
            &InputAliasRemoved {},
            NewEnvelope {
                key: &alias,
                ..plain
            },
        ),
        104..108 => server_keys(random),
        108..110 => delivery(random),
        _ => receipt(random, &who, &room),
    }
}

/// A room that is purged and comes to be again, as often as there is time for.
struct Purged {
    number: u64,
    room: Room,
}

impl Purged {
    fn create(number: u64, random: &mut Random, records: &mut Vec<Keyed>) -> Purged {
        let (room, made) = Room::create(number, random);
        records.extend(made);
        Purged { number, room }
    }

    fn next(&mut self, random: &mut Random) -> Vec<Keyed> {
        let id = format!("!room{}:example.org", self.number);
        let step = |step| {
            let envelope = NewEnvelope {
                key: &id,
                room_id: Some(&id),
                ..NewEnvelope::default()
            };
            keyed(Kind::InputRoomPurged, &InputRoomPurged { step }, envelope)
        };
        match random.below(16) {
            0 => vec![step(PurgeStep::Begin)],
            1..5 => vec![step(PurgeStep::Drop)],
            // Refused while the room is there, or while it is being dropped.
            5 => {
                let (room, made) = Room::create(self.number, random);
                self.room = room;
                made
            }
            6..8 => vec![receipt(random, "@creator:example.org", &id)],
            _ => vec![self.room.next(random)],
        }
    }
}

/// A user read a room up to one of its first events, in one of its threads.
fn receipt(random: &mut Random, who: &str, room: &str) -> Keyed {
    let place = random.below(20);
    let types = [ReceiptType::Read, ReceiptType::ReadPrivate];
    keyed(
        Kind::InputReceipt,
        &InputReceipt {
            receipt_type: types[random.below(2) as usize],
            thread: (random.below(3) == 0).then(|| "main".to_owned()),
            place: (random.below(5) > 0).then(|| u128::from(place).to_be_bytes()),
        },
        NewEnvelope {
            key: room,
            room_id: Some(room),
            sender: Some(who),
            event_id: Some(&format!("$event{place}")),
            origin_ts_ms: 1_700_000_000_000 + random.below(1_000),
            ..NewEnvelope::default()
        },
    )
}

/// What one of a few servers publishes. Some publish another key than before under
/// the same id, which is refused.
fn server_keys(random: &mut Random) -> Keyed {
    let number = random.below(5);
    let server = format!("server{number}.example.org");
    let seed = [number as u8 + u8::from(random.below(8) == 0) * 100; 32];
    let key = ServerKey::from_seed(seed, &format!("k{}", random.below(3)));
    let name = ServerName::parse(&server).unwrap();
    let fetched_ms = 1_700_000_000_000 + random.below(1_000_000);
    let json = to_bytes(&published(&name, &key, &[], fetched_ms + 1000));
    keyed(
        Kind::InputServerKeys,
        &InputServerKeys { fetched_ms },
        NewEnvelope {
            key: &server,
            origin: Some(&server),
            body_part: Part::Present(&json),
            salt: hash(random.next()),
            ..NewEnvelope::default()
        },
    )
}

/// An invite to, or a knock on, a room that no user of ours is in, or its end.
fn outside(random: &mut Random, room: &str, who: &str) -> Keyed {
    use log_format::record::output::Membership;
    let all = [
        Membership::Invite,
        Membership::Knock,
        Membership::Leave,
        Membership::Ban,
    ];
    let event = format!("$outside{}", random.below(1_000));
    keyed(
        Kind::InputOutsideMembership,
        &InputOutsideMembership {
            membership: all[random.below(4) as usize],
        },
        NewEnvelope {
            key: room,
            room_id: Some(room),
            sender: Some(who),
            state_key: Some(who),
            event_type: Some("m.room.member"),
            event_id: (random.below(3) > 0).then_some(event.as_str()),
            room_version: Some("11"),
            skeleton: Part::Present(b"{}"),
            body_part: Part::Present(br#"{"event":{"type":"m.room.member"},"state":[]}"#),
            salt: hash(random.next()),
            ..NewEnvelope::default()
        },
    )
}

/// A server acknowledged something, or was not reached.
fn delivery(random: &mut Random) -> Keyed {
    let server = format!("server{}.example.org", random.below(5));
    let emitted = |random: &mut Random| Emitted {
        src_offset: random.below(1_000),
        src_sub: random.below(2) as u32,
    };
    let acknowledged = (0..random.below(3)).map(|_| Acknowledged {
        partition: random.below(3) as u32,
        upto: emitted(random),
        next: (random.below(2) == 0).then(|| emitted(random)),
    });
    keyed(
        Kind::InputDelivery,
        &InputDelivery {
            acknowledged: acknowledged.collect(),
            failures: random.below(4) as u32,
            retry_at_ms: random.below(1_000_000),
        },
        NewEnvelope {
            key: if random.below(20) == 0 {
                "no server"
            } else {
                &server
            },
            received_us: 1_700_000_000_000_000,
            ..NewEnvelope::default()
        },
    )
}

/// Appends records, each as a batch of its own.
pub fn append(input: &dyn Append, records: impl IntoIterator<Item = Keyed>) {
    for Keyed { key, record } in records {
        let ticket = input.enqueue(input.partition_of(&key), vec![record]);
        drop(ticket.unwrap());
    }
}
