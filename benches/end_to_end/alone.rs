//! Measures the cost of a method alone: in one thread and in memory.
//!
//! The data and the piece size are those of the system. This module uses the library's layers and
//! rustls. It does not use processes or sockets.

use std::{
    hint::black_box,
    io,
    sync::{Arc, LazyLock},
};

use anyhow::{Context, ensure};
use bytes::BytesMut;
use report_proto::{
    compress::{CompressMethod, Compressor, MAX_CHUNK, Pool},
    crypto::{
        EncryptMethod, Opener, PortKeys, Sealer,
        handshake::{Initiator, Responder},
        seal::OVERHEAD,
    },
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    pki_types::{PrivateKeyDer, ServerName},
};

use crate::{
    process::thread_cpu_seconds,
    results::Values,
    services::{self, PIECE},
    variants::{Methods, SystemKind, Variant},
};

/// The number of links with TLS at the master: the client's and the server's.
const TLS_HOPS: f64 = 2.0;

/// Measures what the variant adds to `plain` without compression.
///
/// `alone_mb_s` is the compressor's speed in 10^6 bytes per second of CPU time. `alone_cpu_s_gib`
/// is the total cost of the ciphers in all processes.
pub(crate) fn measure(variant: &Variant, bytes: usize) -> anyhow::Result<Values> {
    let (SystemKind::Report { methods, .. } | SystemKind::WorkingChain(methods)) = &variant.kind
    else {
        return Ok(Values::new());
    };
    let &Methods {
        encrypt,
        compress,
        tls,
    } = methods;
    let mut values = Values::new();
    let block = services::block(variant.payload);
    if compress != CompressMethod::Null {
        let seconds = compressing(compress, &block, bytes)?;
        values.push(("alone_mb_s", bytes as f64 / seconds / 1e6));
    }
    if encrypt != EncryptMethod::Plain || tls {
        let sealing = if encrypt == EncryptMethod::Plain {
            0.0
        } else {
            sealing(encrypt, &block, bytes)?
        };
        let links = if tls {
            TLS_HOPS * tls_of_one_hop(&block, bytes)?
        } else {
            0.0
        };
        values.push((
            "alone_cpu_s_gib",
            (sealing + links) / (bytes as f64 / f64::from(1 << 30)),
        ));
    }
    Ok(values)
}

/// Returns pieces of the block, `bytes` in total.
fn pieces(block: &[u8], bytes: usize) -> impl Iterator<Item = &[u8]> {
    block
        .chunks_exact(MAX_CHUNK)
        .cycle()
        .take(bytes / MAX_CHUNK)
}

fn compressing(method: CompressMethod, block: &[u8], bytes: usize) -> anyhow::Result<f64> {
    let mut compressor = Compressor::new(method, Arc::new(Pool::default()));
    let mut wire = BytesMut::with_capacity(2 * MAX_CHUNK);
    let begun = thread_cpu_seconds()?;
    for piece in pieces(block, bytes) {
        wire.clear();
        compressor.compress(piece, &mut wire);
        black_box(&wire);
    }
    Ok(thread_cpu_seconds()? - begun)
}

/// Measures sealing at one end and opening at the other.
fn sealing(method: EncryptMethod, block: &[u8], bytes: usize) -> anyhow::Result<f64> {
    let ((mut sealer, _), (_, mut opener)) = session(method)?;
    let mut buffer = BytesMut::with_capacity(MAX_CHUNK + OVERHEAD);
    // Reuse the buffer: the cost of a cipher does not depend on the data.
    buffer.extend_from_slice(&block[..MAX_CHUNK]);
    let begun = thread_cpu_seconds()?;
    for _ in 0..bytes / MAX_CHUNK {
        sealer.seal(&mut buffer, 0)?;
        opener.open(&mut buffer)?;
    }
    let seconds = thread_cpu_seconds()? - begun;
    ensure!(
        buffer == block[..MAX_CHUNK],
        "the opened bytes differ from the sealed ones"
    );
    Ok(seconds)
}

/// Returns the sealer and opener of both ends.
///
/// The keys are constant, so that two processes derive them without communication.
pub(crate) fn session(
    method: EncryptMethod,
) -> anyhow::Result<((Sealer, Opener), (Sealer, Opener))> {
    // Derive the keys once: the derivation is slow on purpose.
    static KEYS: LazyLock<PortKeys> = LazyLock::new(|| PortKeys::derive("benchmark"));
    let keys = &*KEYS;
    let (initiator, first) = Initiator::start(&keys.psk, keys.id, b"", [1; 32])?;
    let (responder, _) = Responder::read(&keys.psk, keys.id, &first, [2; 32])?;
    let (second, server) = responder.finish(b"")?;
    let (_, client) = initiator.finish(&second)?;
    Ok((client.initiator(method), server.responder(method)))
}

/// Measures encryption at one end of a link and decryption at the other, with rustls' defaults.
fn tls_of_one_hop(block: &[u8], bytes: usize) -> anyhow::Result<f64> {
    let (mut client, mut server) = tls_connections()?;
    let (mut wire, mut received) = (Vec::with_capacity(2 * PIECE), vec![0; PIECE]);
    let begun = thread_cpu_seconds()?;
    for piece in pieces(block, bytes) {
        let mut left = piece;
        while !left.is_empty() {
            let taken = io::Write::write(&mut client.writer(), left)?;
            left = &left[taken..];
            wire.clear();
            while client.wants_write() {
                client.write_tls(&mut wire)?;
            }
            let mut sent = wire.as_slice();
            while !sent.is_empty() {
                server.read_tls(&mut sent)?;
                server.process_new_packets()?;
                while io::Read::read(&mut server.reader(), &mut received)
                    .is_ok_and(|length| length > 0)
                {}
            }
        }
    }
    let seconds = thread_cpu_seconds()? - begun;
    ensure!(
        received.iter().any(|&byte| byte != 0),
        "TLS delivered no data"
    );
    Ok(seconds)
}

/// Returns two TLS connections after their handshake.
fn tls_connections() -> anyhow::Result<(ClientConnection, ServerConnection)> {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let certificate = certified.cert.der().clone();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der())
        .map_err(anyhow::Error::msg)?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let client = client.with_root_certificates(roots).with_no_client_auth();
    let server =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let server = server
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    let mut client = ClientConnection::new(Arc::new(client), ServerName::try_from("localhost")?)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    let (mut up, mut down) = (Vec::new(), Vec::new());
    while client.is_handshaking() || server.is_handshaking() {
        let moved = client.write_tls(&mut up)? + server.write_tls(&mut down)?;
        ensure!(moved > 0, "the TLS handshake makes no progress");
        read_all(&mut up, |wire| server.read_tls(wire))
            .and_then(|()| Ok(server.process_new_packets()?))
            .context("the server")?;
        read_all(&mut down, |wire| client.read_tls(wire))
            .and_then(|()| Ok(client.process_new_packets()?))
            .context("the client")?;
    }
    Ok((client, server))
}

fn read_all(
    wire: &mut Vec<u8>,
    mut read: impl FnMut(&mut &[u8]) -> io::Result<usize>,
) -> anyhow::Result<()> {
    let mut left = wire.as_slice();
    while !left.is_empty() {
        read(&mut left)?;
    }
    wire.clear();
    Ok(())
}
