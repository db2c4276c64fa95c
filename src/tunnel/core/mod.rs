//! The pure state of a tunnel: which attachments carry it, how long it waits for the next one,
//! which tasks wait for its streams, and how it ends.
//!
//! ```text
//!  Unconfirmed ──take_over──► Attached ──last lane lost──► Lost ──take_over──► Attached …
//!       └── end, END of the peer ──┴── end, END, resume_timeout ──┴──► Ended
//! ```
//!
//! Time is an argument, and nothing here calls the link, a cipher or the runtime. A transition
//! records what is to be done outside in [`Effects`]. The caller collects them with
//! [`TunnelCore::poll_effects`] and runs them after it has released its lock.
//!
//! ```text
//!  transfer ──► lifecycle ──► state ──► binding, waiting, effects
//!                  flows ──────┘
//! ```
//!
//! | file | content |
//! |---|---|
//! | `transfer` | the messages of an attachment: received, transmitted |
//! | `lifecycle` | an attachment takes over, joins, is left, is lost; deadlines |
//! | `lane_count` | the number of lanes that the server asks for, and the surplus that a client leaves |
//! | `flows` | the datagram flows, and the tasks that wait for them |
//! | `state` | [`TunnelCore`], the end of the tunnel, the collection of effects |
//! | `binding` | the attachments that carry the tunnel, its lanes, and how they are left |
//! | `waiting` | the wakers of waiting tasks |
//! | `effects` | actions to run outside the core |

mod binding;
mod effects;
mod flows;
mod lane_count;
mod lifecycle;
mod state;
#[cfg(test)]
mod tests;
mod transfer;
mod waiting;

pub use self::effects::TunnelStatus;
pub(crate) use self::state::CANDIDATE_TIMEOUT;
#[cfg(test)]
pub(crate) use self::{binding::LANES_MAX, lifecycle::MOVE_TIMEOUT};
pub(super) use self::{
    binding::TakeoverKind,
    effects::{Channel, Effects, TunnelEvent},
    lifecycle::AdmitError,
    state::{FIRST_ATTEMPT, TunnelCore},
    transfer::TransmitResult,
};
