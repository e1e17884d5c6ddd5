//! What other servers lead us to write (their keys now, their events later), and
//! what we ask them on behalf of a request.

mod budget;
pub mod edus;
pub mod given_state;
pub mod keyring;
pub mod missing;
pub mod outside_membership;
pub mod own_keys;
pub mod past;
pub mod pdu_checks;
pub mod policy_servers;
pub mod queries;
pub mod receiver;
pub mod remote_invite;
pub mod remote_join;
pub mod remote_knock;
pub mod remote_leave;
pub mod remote_past;
pub mod remote_rooms;
pub mod resident;
pub mod template;
pub mod told;
