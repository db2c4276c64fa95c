//! Link frames: encode, decode, limits.

mod notice;

pub use notice::{Code, Notice};
