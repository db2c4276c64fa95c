//! The handshake of an attachment: the client's offer, the server's answer, and the keys on which
//! both agree (PROTOCOL 7).
//!
//! ```text
//!  client                                    server
//!  offer ─────────first message──────────►  read_offer
//!  read_answer ◄──second message── ReceivedOffer::{accept, resume, refuse}
//!      └─────────── AttachmentKeys ────────────┘
//! ```
//!
//! Pure: it knows the parameters of a port and the bytes of messages, and takes ephemeral keys as
//! arguments. It does not know channels or the state of a tunnel.

use std::time::Duration;

use super::{
    attach_error::AttachError,
    offer::{AttachAnswer, Grant, Methods, Mismatch, Offer, ResumeRequest, VERSION},
    parameters::PortParameters,
};
use report_proto::{
    crypto::{
        EncryptMethod, SessionKeys, TunnelSecret,
        handshake::{Initiator, Responder},
        seal::{Opener, Sealer},
    },
    frame::Code,
    id::Id,
};

/// The keys of one end of an attachment.
pub(super) type AttachmentKeys = (Sealer, Opener);

/// The identity of a tunnel, fixed by its first handshake.
pub(super) struct Identity {
    pub id: Id,
    /// Instance id of the server process.
    pub instance: Id,
    pub secret: TunnelSecret,
}

/// A tunnel that a handshake creates.
pub(super) struct NewTunnel {
    pub identity: Identity,
    /// The limits that the peer grants this end.
    pub grant: Grant,
    /// At a server: whether the client opens lanes at the server's request.
    pub takes_lane_requests: bool,
}

/// The result of a server's answer at the client.
pub(super) enum Agreement {
    /// A new tunnel.
    New(NewTunnel, ServerInfo, AttachmentKeys),
    /// A tunnel is resumed. Its secret completes the keys.
    Resumed {
        /// No data in flight on the previous attachment is lost.
        joins: bool,
        keys: SessionKeys,
    },
}

/// Properties of a server, reported when it accepts a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerInfo {
    /// Uptime of the server process.
    pub age: Duration,
    /// Whether the server serves benchmark streams (PROTOCOL 9.10); `None` if it does not know
    /// them.
    pub bench: Option<bool>,
    /// Whether the server requests the addresses of connections (PROTOCOL 9.11).
    pub addresses: bool,
    /// The lowest client stream id that the server never saw of the tunnel that the client tried to
    /// resume. Only set when that tunnel has ended and the server still knows the number.
    pub seen: Option<u64>,
}

/// Writes a client's offer. Returns the handshake and the first message.
///
/// # Errors
/// When the handshake cannot be started.
pub(super) fn offer(
    port: &PortParameters,
    resume: Option<ResumeRequest>,
    ephemeral: [u8; 32],
) -> Result<(Initiator, Vec<u8>), AttachError> {
    let offer = Offer {
        resume,
        ..Offer::of(port)
    };
    let payload = serde_json::to_vec(&offer).unwrap_or_default();
    Ok(Initiator::start(
        &port.keys.psk,
        port.keys.id,
        &payload,
        ephemeral,
    )?)
}

/// Reads the server's answer to an offer.
///
/// # Errors
/// When the server refuses, or its answer does not open or match the offer.
pub(super) fn read_answer(
    initiator: Initiator,
    port: &PortParameters,
    message: &[u8],
) -> Result<Agreement, AttachError> {
    let (payload, keys) = initiator.finish(message)?;
    let answer: AttachAnswer = serde_json::from_slice(&payload)
        .map_err(|error| AttachError::Handshake(format!("cannot parse the answer: {error}")))?;
    match answer {
        AttachAnswer::Accept {
            tunnel,
            instance,
            age_ms,
            bench,
            addresses,
            seen,
            grant,
        } => {
            let identity = Identity {
                id: tunnel,
                instance,
                secret: keys.tunnel_secret(),
            };
            let server_info = ServerInfo {
                age: Duration::from_millis(age_ms),
                bench,
                addresses,
                seen,
            };
            let new = NewTunnel {
                identity,
                grant,
                takes_lane_requests: false,
            };
            Ok(Agreement::New(
                new,
                server_info,
                keys.initiator(port.encrypt),
            ))
        }
        AttachAnswer::Resume { joins } => Ok(Agreement::Resumed { joins, keys }),
        AttachAnswer::Refuse {
            code,
            version,
            methods,
        } => Err(refusal(port, code, version, &methods)),
    }
}

/// Returns why a server with this version and these methods has refused the tunnel.
fn refusal(port: &PortParameters, code: Code, version: u32, methods: &Methods) -> AttachError {
    if code != Code::Mismatch {
        return AttachError::Refused(code);
    }
    if version != VERSION {
        return AttachError::Mismatch(Mismatch::Version {
            here: VERSION,
            there: version,
        });
    }
    match Methods::of(port).check(methods) {
        Err(mismatch) => AttachError::Mismatch(mismatch),
        Ok(()) => AttachError::Refused(code),
    }
}

/// A client's offer at the server, which answers it with one of its methods.
pub(super) struct ReceivedOffer {
    responder: Responder,
    offer: Offer,
}

/// Reads the first message of a client.
///
/// # Errors
/// When the message does not open or its content is invalid.
pub(super) fn read_offer(
    port: &PortParameters,
    message: &[u8],
    ephemeral: [u8; 32],
) -> Result<ReceivedOffer, AttachError> {
    let (responder, offer) = Responder::read(&port.keys.psk, port.keys.id, message, ephemeral)?;
    let offer = serde_json::from_slice(&offer)
        .map_err(|error| AttachError::Handshake(format!("cannot parse the offer: {error}")))?;
    Ok(ReceivedOffer { responder, offer })
}

impl ReceivedOffer {
    /// Checks the offer against the configuration of `port`.
    ///
    /// # Errors
    /// The first difference, with both values.
    pub(super) fn check(&self, port: &PortParameters) -> Result<(), Mismatch> {
        self.offer.check(port)
    }

    /// Returns the tunnel that the client asks to resume.
    pub(super) fn resume_request(&self) -> Option<ResumeRequest> {
        self.offer.resume
    }

    fn answer(self, answer: &AttachAnswer) -> Result<(Vec<u8>, SessionKeys), AttachError> {
        let payload = serde_json::to_vec(answer).unwrap_or_default();
        Ok(self.responder.finish(&payload)?)
    }

    /// Answers with ACCEPT: a new tunnel with this id.
    pub(super) fn accept(
        self,
        port: &PortParameters,
        id: Id,
        instance: Id,
        server_info: ServerInfo,
    ) -> Result<(Vec<u8>, NewTunnel, AttachmentKeys), AttachError> {
        let (grant, takes_lane_requests) = (self.offer.grant, self.offer.lanes);
        let (answer, keys) = self.answer(&AttachAnswer::Accept {
            tunnel: id,
            instance,
            age_ms: u64::try_from(server_info.age.as_millis()).unwrap_or(u64::MAX),
            bench: server_info.bench,
            addresses: server_info.addresses,
            seen: server_info.seen,
            grant: Grant::of(port),
        })?;
        let identity = Identity {
            id,
            instance,
            secret: keys.tunnel_secret(),
        };
        let new = NewTunnel {
            identity,
            grant,
            takes_lane_requests,
        };
        Ok((answer, new, keys.responder(port.encrypt)))
    }

    /// Answers with RESUME for the tunnel with this secret.
    pub(super) fn resume(
        self,
        joins: bool,
        secret: &TunnelSecret,
        encrypt: EncryptMethod,
    ) -> Result<(Vec<u8>, AttachmentKeys), AttachError> {
        let (answer, keys) = self.answer(&AttachAnswer::Resume { joins })?;
        Ok((answer, keys.with_tunnel_secret(secret).responder(encrypt)))
    }

    /// Answers with a refusal because of a mismatch.
    pub(super) fn refuse(self, port: &PortParameters) -> Result<Vec<u8>, AttachError> {
        let (answer, _) = self.answer(&AttachAnswer::Refuse {
            code: Code::Mismatch,
            version: VERSION,
            methods: Methods::of(port),
        })?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::tunnel::tests::port;
    use report_proto::compress::CompressMethod;

    const SERVER_INFO: ServerInfo = ServerInfo {
        age: Duration::from_millis(1_234),
        bench: Some(true),
        addresses: false,
        seen: Some(8),
    };

    /// Sends one sealed message from the first end to the second.
    fn opens(from: &mut AttachmentKeys, to: &mut AttachmentKeys) -> bool {
        let mut message = BytesMut::from(&b"message"[..]);
        from.0.seal(&mut message, 0).unwrap();
        to.1.open(&mut message).is_ok() && message == b"message"[..]
    }

    fn is_shared(client: &mut AttachmentKeys, server: &mut AttachmentKeys) -> bool {
        opens(client, server) && opens(server, client)
    }

    /// Opens a tunnel. Returns its two descriptions: the client's, then the server's.
    fn opened(port: &PortParameters) -> (NewTunnel, NewTunnel) {
        let (initiator, message) = offer(port, None, [1; 32]).unwrap();
        let received = read_offer(port, &message, [2; 32]).unwrap();
        assert!(received.resume_request().is_none());
        let (answer, at_server, mut server) = received
            .accept(port, Id([3; 16]), Id([4; 16]), SERVER_INFO)
            .unwrap();
        let Ok(Agreement::New(at_client, server_info, mut client)) =
            read_answer(initiator, port, &answer)
        else {
            panic!("a new tunnel")
        };
        assert_eq!(server_info, SERVER_INFO);
        assert!(is_shared(&mut client, &mut server));
        (at_client, at_server)
    }

    #[test]
    fn both_ends_agree_on_a_new_tunnel() {
        let port = port(EncryptMethod::Aes128Gcm, CompressMethod::Zstd);
        let (client, server) = opened(&port);
        assert_eq!(client.identity.id, server.identity.id);
        assert_eq!(client.identity.instance, Id([4; 16]));
        assert_eq!(client.grant, Grant::of(&port));
        assert_eq!(server.grant, Grant::of(&port));
    }

    #[test]
    fn only_the_ends_of_a_tunnel_share_the_keys_of_its_resumption() {
        let port = port(EncryptMethod::Aes128Gcm, CompressMethod::Zstd);
        let (at_client, at_server) = opened(&port);
        let another = TunnelSecret::from_bytes([0; 32]);
        let request = ResumeRequest {
            tunnel: at_client.identity.id,
            attempt: 1,
            joins: true,
        };
        for (secret, is_owner) in [(&at_client.identity.secret, true), (&another, false)] {
            let (initiator, message) = offer(&port, Some(request), [5; 32]).unwrap();
            let received = read_offer(&port, &message, [6; 32]).unwrap();
            assert_eq!(received.resume_request(), Some(request));
            let (answer, mut server) = received
                .resume(true, &at_server.identity.secret, port.encrypt)
                .unwrap();
            let Ok(Agreement::Resumed { joins: true, keys }) =
                read_answer(initiator, &port, &answer)
            else {
                panic!("a resumption")
            };
            let mut client = keys.with_tunnel_secret(secret).initiator(port.encrypt);
            assert_eq!(is_shared(&mut client, &mut server), is_owner);
        }
    }

    #[test]
    fn a_refusal_names_the_difference() {
        let here = port(EncryptMethod::Aes128Gcm, CompressMethod::Zstd);
        let there = port(EncryptMethod::Aes128Gcm, CompressMethod::S2);
        let (initiator, message) = offer(&here, None, [1; 32]).unwrap();
        let received = read_offer(&there, &message, [2; 32]).unwrap();
        let mismatch = received.check(&there).unwrap_err();
        let answer = received.refuse(&there).unwrap();
        let Err(AttachError::Mismatch(refused)) = read_answer(initiator, &here, &answer) else {
            panic!("a refusal")
        };
        let field = |mismatch| match mismatch {
            Mismatch::Method { field, .. } => field,
            Mismatch::Version { .. } => "version",
            Mismatch::Range { .. } => "range",
        };
        assert_eq!(
            (field(mismatch), field(refused)),
            ("compress_method", "compress_method")
        );
    }
}
