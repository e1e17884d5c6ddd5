//! `next_batch` of a search: where the next page begins, and in which group.
//!
//! A token is good for the request that it was given for, by the user who got
//! it. Where it stands need not be proved: whatever it says, only what the user
//! may see is shown.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ruma::{OwnedRoomId, OwnedUserId};

use super::collect::{Order, Standing};
use super::{Group, Search};
use crate::query::tokens::TokenError;

/// Begins every token; the digit is its version.
const PREFIX: &str = "r1_";
/// Longest token: two numbers, a digest and an identifier.
const TOKEN_BYTES_MAX: usize = 512;

/// Where a page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageToken {
    /// Only what stands behind this.
    pub after: Standing,
    /// Within this group; none: among all results.
    pub group: Option<Group>,
}

impl PageToken {
    /// Shape: `r1_` and base64url of `request digest 8 | by: u64 BE | event: u64 BE
    /// | group: u8 | id`, where the group is 0 for none, 1 for a room, 2 for a sender.
    pub fn encode(&self, search: &Search) -> String {
        let mut bytes = digest(search).to_vec();
        bytes.extend_from_slice(&self.after.by.to_be_bytes());
        bytes.extend_from_slice(&self.after.event.to_be_bytes());
        match &self.group {
            None => bytes.push(0),
            Some(Group::Room(room)) => {
                bytes.push(1);
                bytes.extend_from_slice(room.as_bytes());
            }
            Some(Group::Sender(sender)) => {
                bytes.push(2);
                bytes.extend_from_slice(sender.as_bytes());
            }
        }
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads [`PageToken::encode`]; refuses one of another request.
    pub fn decode(token: &str, search: &Search) -> Result<PageToken, TokenError> {
        let coded = token.strip_prefix(PREFIX).ok_or(TokenError)?;
        if coded.len() > TOKEN_BYTES_MAX {
            return Err(TokenError);
        }
        let bytes = URL_SAFE_NO_PAD.decode(coded).map_err(|_| TokenError)?;
        let (made_for, rest) = bytes.split_first_chunk::<8>().ok_or(TokenError)?;
        let (by, rest) = rest.split_first_chunk::<8>().ok_or(TokenError)?;
        let (event, rest) = rest.split_first_chunk::<8>().ok_or(TokenError)?;
        let (group, id) = rest.split_first().ok_or(TokenError)?;
        if *made_for != digest(search) {
            return Err(TokenError);
        }
        let id = std::str::from_utf8(id).map_err(|_| TokenError)?;
        let group = match group {
            0 if id.is_empty() => None,
            1 => Some(Group::Room(
                OwnedRoomId::try_from(id).map_err(|_| TokenError)?,
            )),
            2 => Some(Group::Sender(
                OwnedUserId::try_from(id).map_err(|_| TokenError)?,
            )),
            _ => return Err(TokenError),
        };
        Ok(PageToken {
            after: Standing {
                by: u64::from_be_bytes(*by),
                event: u64::from_be_bytes(*event),
            },
            group,
        })
    }
}

/// Names a request, but for how many results it wants at a time.
fn digest(search: &Search) -> [u8; 8] {
    let order = match search.order {
        Order::Rank => "rank",
        Order::Recent => "recent",
    };
    let mut filter = search.filter.clone();
    filter.limit = None;
    let mut hasher = blake3::Hasher::new();
    for part in [
        search.user.as_str(),
        &search.term,
        order,
        // Sets are in order, so that equal filters have equal texts.
        &format!("{:?} {filter:?}", search.keys),
    ] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    first
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, user_id};

    use super::*;

    #[test]
    fn a_token_reads_back_for_its_request_alone() {
        let search = Search::plain(user_id!("@a:hs"), "term");
        let after = Standing {
            by: 7,
            event: u64::MAX,
        };
        for group in [
            None,
            Some(Group::Room(room_id!("!r:hs").to_owned())),
            Some(Group::Sender(user_id!("@b:hs").to_owned())),
        ] {
            let token = PageToken { after, group };
            let text = token.encode(&search);
            assert_eq!(PageToken::decode(&text, &search), Ok(token));
            let mut longer = search.clone();
            longer.filter.limit = Some(3);
            assert!(PageToken::decode(&text, &longer).is_ok());
            for other in [
                Search::plain(user_id!("@b:hs"), "term"),
                Search::plain(user_id!("@a:hs"), "other"),
                Search {
                    order: Order::Recent,
                    ..search.clone()
                },
            ] {
                assert_eq!(PageToken::decode(&text, &other), Err(TokenError));
            }
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let search = Search::plain(user_id!("@a:hs"), "term");
        let whole = PageToken {
            after: Standing { by: 1, event: 2 },
            group: None,
        };
        let whole = whole.encode(&search);
        let cut = &whole[..whole.len() - 2];
        for text in [
            "",
            "r1_",
            "r1_AAAA",
            "r0_AAAA",
            "r1_%%",
            cut,
            &format!("{whole}AA"),
        ] {
            assert_eq!(PageToken::decode(text, &search), Err(TokenError), "{text}");
        }
    }
}
