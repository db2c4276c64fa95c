//! REGISTERED: what the master registered for a server, and what it refuses (PROTOCOL 5.1).

use serde::{Deserialize, Serialize};

use super::{Frame, MAX_CONTROL, Notice};
use crate::id::Id;

/// The size of a key id in JSON, with its quotes and its comma.
const KEY_ID_SIZE: usize = 35;

/// The size of a refusal in JSON without its reason, at most.
const REFUSAL_SIZE: usize = 130;

/// The room for key ids and refusals in a frame: without the type byte and the names of the lists.
const ROOM: usize = MAX_CONTROL.saturating_sub(64);

/// The contents of a REGISTERED frame.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The key ids that are registered now.
    pub ports: Vec<Id>,
    /// The key ids that the master refuses, with its reasons. Earlier versions ignore them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedPort>,
}

/// A key id that the master refuses to register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedPort {
    /// The key id.
    pub port: Id,
    /// The code and the reason.
    #[serde(flatten)]
    pub notice: Notice,
}

impl Registered {
    /// Creates the contents without a refusal.
    #[must_use]
    pub fn new(ports: Vec<Id>) -> Self {
        Registered {
            ports,
            refused: Vec::new(),
        }
    }

    /// Returns the frames that carry this answer, each within [`MAX_CONTROL`]. At most
    /// [`MAX_PORTS_PER_FRAME`](super::MAX_PORTS_PER_FRAME) key ids may be registered.
    ///
    /// The last frame names all registered key ids. The ones before it carry refusals only.
    #[must_use]
    pub fn into_frames(self) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut part = Registered::default();
        let mut size = 0_usize;
        for refused in self.refused {
            let added = refused.size();
            if size.saturating_add(added) > ROOM {
                frames.push(Frame::Registered(std::mem::take(&mut part)));
                size = 0;
            }
            size = size.saturating_add(added);
            part.refused.push(refused);
        }
        let ports_size = self.ports.len().saturating_mul(KEY_ID_SIZE);
        if !part.refused.is_empty() && size.saturating_add(ports_size) > ROOM {
            frames.push(Frame::Registered(std::mem::take(&mut part)));
        }
        part.ports = self.ports;
        frames.push(Frame::Registered(part));
        frames
    }

    /// Returns the contents with reasons of one line and at most
    /// [`MAX_REASON`](super::MAX_REASON) bytes.
    pub(super) fn sanitized(&self) -> Self {
        let sanitized = |refused: &RefusedPort| RefusedPort {
            port: refused.port,
            notice: refused.notice.sanitized(),
        };
        Registered {
            ports: self.ports.clone(),
            refused: self.refused.iter().map(sanitized).collect(),
        }
    }
}

impl RefusedPort {
    /// Returns the size in JSON, at most. Escapes double a reason at worst, because it has no
    /// control characters.
    fn size(&self) -> usize {
        let reason = self.notice.sanitized().reason.len();
        REFUSAL_SIZE.saturating_add(reason.saturating_mul(2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Code, MAX_PORTS_PER_FRAME, MAX_REASON};

    fn refused(number: u16, reason: &str) -> RefusedPort {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&number.to_be_bytes());
        RefusedPort {
            port: Id(id),
            notice: Notice::new(Code::Denied, reason),
        }
    }

    fn text(answer: &Registered) -> String {
        serde_json::to_string(answer).unwrap()
    }

    #[test]
    fn refusals_are_omitted_when_there_are_none_and_read_without_them() {
        let usual = Registered::new(vec![Id([1; 16])]);
        assert_eq!(text(&usual), format!(r#"{{"ports":["{}"]}}"#, Id([1; 16])));
        assert_eq!(
            serde_json::from_str::<Registered>(&text(&usual)).unwrap(),
            usual
        );
        let with_refusal = Registered {
            refused: vec![refused(0x0102, "not yours")],
            ..usual
        };
        assert!(
            text(&with_refusal).ends_with(
                r#","refused":[{"port":"01020000000000000000000000000000","code":"denied","reason":"not yours"}]}"#
            ),
            "{}",
            text(&with_refusal)
        );
        assert_eq!(
            serde_json::from_str::<Registered>(&text(&with_refusal)).unwrap(),
            with_refusal
        );
    }

    #[test]
    fn a_usual_answer_is_one_frame() {
        let answer = Registered {
            ports: vec![Id([1; 16]); 100],
            refused: (0..100)
                .map(|number| refused(number, "not yours"))
                .collect(),
        };
        assert_eq!(
            answer.clone().into_frames(),
            [Frame::Registered(answer)],
            "with ports and refusals"
        );
        assert_eq!(
            Registered::default().into_frames(),
            [Frame::Registered(Registered::default())]
        );
    }

    #[test]
    fn many_refusals_are_split_into_frames_within_the_limit() {
        let ports = vec![Id([255; 16]); MAX_PORTS_PER_FRAME];
        let refusals: Vec<RefusedPort> = (0..2_000)
            .map(|number| refused(number, &"\"".repeat(MAX_REASON + 1)))
            .collect();
        let frames = Registered {
            ports: ports.clone(),
            refused: refusals.clone(),
        }
        .into_frames();
        let mut read = Vec::new();
        let (last, before) = frames.split_last().unwrap();
        for frame in &frames {
            let message = frame.to_message();
            assert!(message.len() <= MAX_CONTROL, "{} bytes", message.len());
            let Ok(Frame::Registered(answer)) = Frame::decode(message) else {
                panic!("the frame decodes")
            };
            read.extend(answer.refused);
        }
        let is_empty = |frame: &Frame| matches!(frame, Frame::Registered(Registered { ports, .. }) if ports.is_empty());
        assert!(before.iter().all(is_empty) && before.len() > 10);
        assert!(matches!(last, Frame::Registered(answer) if answer.ports == ports));
        let ids = |list: &[RefusedPort]| list.iter().map(|one| one.port).collect::<Vec<_>>();
        assert_eq!(ids(&read), ids(&refusals));
        assert_eq!(read[0].notice.reason.len(), MAX_REASON);
    }
}
